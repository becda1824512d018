"""What can be seen of a service from outside: its pods, its external metrics, its status. Read once a second."""

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easel_contract import metrics, names
from kubernetes import client, config
from urllib3.exceptions import HTTPError

from demo.cluster import Cluster

QUANTITY = re.compile(r"^(-?[0-9.]+)(m?)$")


@dataclass(frozen=True)
class Sighting:
    """One look at a service."""

    at_seconds: float  # since the observer began
    queue_depth: float | None  # waiting and running; None: the operator has no fresh figure
    latency_p95_seconds: float | None
    desired: int
    existing: int
    ready: int
    reason: str  # of the last scaling decision


class Observer:
    """Looks at a service every second in a thread of its own, and keeps what it saw."""

    def __init__(self, cluster: Cluster, service: str, on_sighting: Callable[[Sighting], None]) -> None:
        self._service = service
        self._on_sighting = on_sighting
        self._api: Any = client.ApiClient(load_configuration(cluster))
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.sightings: list[Sighting] = []

    def __enter__(self) -> "Observer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def now_seconds(self) -> float:
        """Seconds since the observer was made."""
        return time.monotonic() - self._began

    def wait_until(self, holds: Callable[[Sighting], bool], what: str, timeout_seconds: float) -> Sighting:
        """The first sighting from now on for which ``holds``. Raises TimeoutError with the last one seen."""
        deadline = time.monotonic() + timeout_seconds
        with self._changed:
            while True:
                if self.sightings and holds(self.sightings[-1]):
                    return self.sightings[-1]
                if not self._changed.wait(deadline - time.monotonic()):
                    last = self.sightings[-1] if self.sightings else None
                    raise TimeoutError(f"{what}: not within {timeout_seconds:.0f} s; last seen: {last}")

    def _run(self) -> None:
        while not self._stop.wait(1.0):
            # One look that fails is a gap in the plot, no reason to end.
            with suppress(client.ApiException, HTTPError):
                sighting = self._look()
                with self._changed:
                    self.sightings.append(sighting)
                    self._changed.notify_all()
                self._on_sighting(sighting)

    def _look(self) -> Sighting:
        selector = f"{names.LABEL_SERVICE}%3D{self._service},{names.LABEL_COMPONENT}%3D{names.COMPONENT_WORKER}"
        listed = self._get(f"/api/v1/namespaces/default/pods?labelSelector={selector}")["items"]
        pods = [pod for pod in listed if "deletionTimestamp" not in pod["metadata"]]
        deployment = self._get(f"/apis/apps/v1/namespaces/default/deployments/{names.worker_name(self._service)}")
        group = f"/apis/{names.API_GROUP}/{names.API_VERSION}/namespaces/default/{names.PLURAL}"
        status = self._get(f"{group}/{self._service}").get("status", {})
        return Sighting(
            at_seconds=self.now_seconds,
            queue_depth=self._external(metrics.EXTERNAL_QUEUE_DEPTH),
            latency_p95_seconds=self._external(metrics.EXTERNAL_LATENCY_P95_SECONDS),
            desired=deployment["spec"]["replicas"],
            existing=len(pods),
            ready=sum(is_ready(pod) for pod in pods),
            reason=status.get("scaling", {}).get("reason", ""),
        )

    def _external(self, metric: str) -> float | None:
        path = f"/apis/external.metrics.k8s.io/v1beta1/namespaces/default/{metric}"
        with suppress(client.ApiException):
            for item in self._get(f"{path}?labelSelector={names.LABEL_SERVICE}%3D{self._service}")["items"]:
                match = QUANTITY.match(item["value"])
                if match:
                    return float(match.group(1)) / (1000 if match.group(2) else 1)
        return None

    def _get(self, path: str) -> dict[str, Any]:
        answer = self._api.call_api("GET", self._api.configuration.host + path, _request_timeout=5)
        answer.read()
        if answer.status != 200:
            raise client.ApiException(status=answer.status, reason=answer.reason)
        parsed: dict[str, Any] = json.loads(answer.data)
        return parsed


def load_configuration(cluster: Cluster) -> client.Configuration:
    """For clients of the cluster's API server."""
    configuration = client.Configuration()
    config.load_kube_config(str(cluster.kubeconfig), client_configuration=configuration)  # type: ignore[no-untyped-call]
    return configuration


def is_ready(pod: dict[str, Any]) -> bool:
    """Whether the pod's Ready condition is True."""
    conditions = pod["status"].get("conditions", ())
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)


def kill_a_busy_worker(cluster: Cluster, service: str) -> str:
    """Ends one ready worker at once, without a chance to say anything. Returns its pod's name.

    On the embedded cluster that is SIGKILL to its process; elsewhere a deletion without grace, which is the same to
    the job that it was running.
    """
    selector = f"{names.LABEL_SERVICE}={service},{names.LABEL_COMPONENT}={names.COMPONENT_WORKER}"
    pods = cluster.get("pods", "-l", selector)["items"]
    ready = [str(pod["metadata"]["name"]) for pod in pods if is_ready(pod)]
    if not ready:
        raise RuntimeError(f"{service}: no ready worker to kill among {len(pods)}")
    if cluster.kind == "embedded":
        os.kill(_process_of(ready[0]), signal.SIGKILL)
    else:
        cluster.kubectl("delete", "pod", ready[0], "--grace-period=0", "--force")
    return ready[0]


def _process_of(pod: str) -> int:
    wanted = f"{names.ENV_POD_NAME}={pod}".encode()
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if wanted in entry.read_bytes().split(b"\0"):
                return int(entry.parent.name)
    raise RuntimeError(f"no process on this machine belongs to pod {pod}")
