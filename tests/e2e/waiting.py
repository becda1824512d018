"""Services under test: apply, look, wait on a condition with a bound, delete."""

import json
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import yaml

from demo.cluster import NAMESPACE, ROOT, Cluster, ClusterError

Seen = TypeVar("Seen")

# How much longer all takes on a machine that much else runs on too. Bounds are given for an idle one: a wait that
# comes to its end only costs the time that it takes.
SLOWNESS = 3
SYNTHETIC = {"kind": "Synthetic", "synthetic": {"millisecondsPerStep": 10, "millisecondsPerImage": 10}}


def wait_until(look: Callable[[], Seen], holds: Callable[[Seen], bool], what: str, timeout_seconds: float) -> Seen:
    """The first look for which ``holds``; fails with the last one after the time-out, as long as it may be here."""
    deadline = time.monotonic() + SLOWNESS * timeout_seconds
    while True:
        seen = look()
        if holds(seen):
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {SLOWNESS} times {timeout_seconds} s; last seen: {seen}")
        time.sleep(0.3)


def tiny(name: str, **changes: Any) -> dict[str, Any]:
    """The example service under another name; ``changes`` are dotted paths with __ for dots: worker__gpu__count=3."""
    documents = yaml.safe_load_all((ROOT / "examples/tiny.yaml").read_text())
    service: dict[str, Any] = next(item for item in documents if item["kind"] == "StableDiffusionService")
    service["metadata"]["name"] = name
    for path, value in changes.items():
        *folders, leaf = path.split("__")
        node = service["spec"]
        for folder in folders:
            node = node.setdefault(folder, {})
        if value is None:
            node.pop(leaf, None)
        else:
            node[leaf] = value
    return service


def quick(name: str, **changes: Any) -> dict[str, Any]:
    """``tiny`` with an engine that needs no model: its workers are there in a second, as they load no torch."""
    return tiny(name, **{"worker__engine": SYNTHETIC, **changes})


class Services:
    """What one test applied."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._applied: list[str] = []
        documents = yaml.safe_load_all((ROOT / "examples/tiny.yaml").read_text())
        claim = next(item for item in documents if item["kind"] == "PersistentVolumeClaim")
        cluster.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(claim))

    def apply(self, service: dict[str, Any]) -> str:
        """``kubectl apply``; returns the name. Raises ClusterError with the API server's words."""
        name: str = service["metadata"]["name"]
        self._applied.append(name)
        self.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(service))
        return name

    def refused(self, service: dict[str, Any]) -> str:
        """What kubectl says to a service that must not be accepted."""
        try:
            self.apply(service)
        except ClusterError as error:
            return str(error)
        raise AssertionError(f"accepted: {service}")

    def condition(self, name: str, kind: str) -> dict[str, Any]:
        """A condition of a service; empty before it is written."""
        status = self.cluster.get("sds", name).get("status", {})
        return next((entry for entry in status.get("conditions", ()) if entry["type"] == kind), {})

    def wait_for(
        self, name: str, kind: str, status: str, reason: str | None = None, *, timeout_seconds: float = 90
    ) -> dict[str, Any]:
        """Waits for a condition to have this status (and reason)."""
        return wait_until(
            lambda: self.condition(name, kind),
            lambda seen: seen.get("status") == status and reason in {None, seen.get("reason")},
            f"{name}: {kind}={status} {reason or ''}",
            timeout_seconds,
        )

    def children(self, name: str) -> dict[str, str]:
        """kind/name → uid of everything that carries the service's label and isn't being deleted."""
        kinds = "deployments,services,configmaps,secrets,serviceaccounts,hpa,pdb"
        listed = self.cluster.get(kinds, "-l", f"easel.dev/service={name}")["items"]
        return {f"{item['kind']}/{item['metadata']['name']}": item["metadata"]["uid"] for item in listed}

    def pods(self, name: str, component: str) -> list[dict[str, Any]]:
        """Pods of a service that aren't being deleted."""
        selector = f"easel.dev/service={name},app.kubernetes.io/component={component}"
        listed: list[dict[str, Any]] = self.cluster.get("pods", "-l", selector)["items"]
        return [pod for pod in listed if "deletionTimestamp" not in pod["metadata"]]

    def delete_all(self) -> None:
        """Deletes what was applied and waits until its pods are gone, so that the next test finds the GPUs free."""
        for name in self._applied:
            self.cluster.kubectl("delete", "sds", name, "--ignore-not-found")
        for name in self._applied:
            self.wait_gone(name)

    def wait_gone(self, name: str) -> None:
        """Waits until no pod of the service is left."""
        wait_until(
            lambda: self.cluster.get("pods", "-l", f"easel.dev/service={name}")["items"],
            lambda left: not left,
            f"pods of {name} gone",
            90,
        )

    def print_evidence(self) -> None:
        """The state of the cluster and the operator's last words, for a failed test's report."""
        for words in (
            ("get", "sds,deploy,hpa,pods", "-o", "wide"),
            ("get", "events", "--sort-by=.lastTimestamp"),
            ("get", "sds", "-o", "yaml"),
            ("logs", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=operator", "--tail=40"),
        ):
            try:
                sys.stdout.write(f"\n--- kubectl {' '.join(words)}\n{self.cluster.kubectl(*words)}")
            except ClusterError as error:
                sys.stdout.write(f"\n--- {error}\n")
