"""The cluster under fire: what is on it, how it is looked at, and the commands that faults are made of.

The embedded cluster only: elsewhere nobody may kill a machine or the API server.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from easel_contract import names

from chaos.clients import WEBHOOK_SECRET
from chaos.requests import build_keys
from demo import cluster as clusters
from demo.cluster import NAMESPACE, ROOT, Cluster, ClusterError, devcluster_binary, run
from demo.observe import is_ready

SERVICE: Final = "chaos"
MANIFEST: Final = Path(__file__).parent / "service.yaml"
# Three for the servers of Redis, which one node each must outlive, and three with GPUs for four workers.
NODES: Final = ("cpu-0", "cpu-1", "cpu-2", *(f"gpu-{number}:nvidia.com/gpu=2" for number in range(3)))
RECEIVER: Final = "192.168.77.1"  # of the machine in the cluster's network (devcluster/README.md)
REDIS_SERVERS: Final = 3
REDIS_SET: Final = "easel-redis-replicated"
KUBELET_PROGRAM: Final = "devcluster"
VALUES: Final = (f"redis.replicas={REDIS_SERVERS}", "operator.replicas=2")
POLL_SECONDS: Final = 0.5
SELECTORS: Final = {
    "operator": (f"{names.LABEL_COMPONENT}=operator", NAMESPACE),
    "redis": (f"{names.LABEL_COMPONENT}=redis", NAMESPACE),
}

Seen = TypeVar("Seen")


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """A cluster of the run's own with the chart and a replicated Redis on it; nothing of it is left afterwards."""
    state = ROOT / ".state" / f"chaos-{os.getpid()}"
    try:
        cluster = clusters.start(state, hpa_sync_seconds=5, nodes=NODES)
        for number in range(REDIS_SERVERS):
            cluster.kubectl("apply", "-f", "-", stdin=json.dumps(_build_volume(state, number)))
        clusters.install_chart(cluster, *VALUES)
        yield cluster
    finally:
        clusters.stop(state)


def _build_volume(state: Path, number: int) -> dict[str, Any]:
    """A directory of this machine for a server of Redis, bound by name as the cluster's others are."""
    name = f"{REDIS_SET}-{number}"
    directory = state / name
    directory.mkdir(exist_ok=True)
    directory.chmod(0o777)  # whatever user the image runs as
    return clusters.build_volume(name, directory, "ReadWriteOnce", NAMESPACE, f"data-{name}")


def build_objects() -> list[dict[str, Any]]:
    """The service and its Secrets."""
    secrets = {"chaos-keys": build_keys(), "chaos-webhooks": {"signing-secret": WEBHOOK_SECRET}}
    kept = [
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": values}
        for name, values in secrets.items()
    ]
    return [*kept, yaml.safe_load(MANIFEST.read_text())]


class World:
    """A cluster with the service on it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._state = ("--state-dir", str(cluster.state / "cluster"))

    def apply(self) -> None:
        """The service, until it is ready. Raises ClusterError."""
        self.cluster.kubectl(
            "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": build_objects()})
        )
        self.cluster.kubectl("wait", "--for=condition=Ready", f"sds/{SERVICE}", "--timeout=180s")

    @property
    def url(self) -> str:
        """Of the Service, in the cluster's network."""
        return f"http://{self.cluster.get('service', SERVICE)['spec']['clusterIP']}"

    def inside(self, *command: str) -> list[str]:
        """A command that runs in the cluster's network."""
        return [devcluster_binary(), "exec", *self._state, "--", *command]

    def devcluster(self, *words: str) -> str:
        """What the cluster's own command says."""
        return run(devcluster_binary(), *words, *self._state)

    def list_pods(self, component: str) -> list[dict[str, Any]]:
        """Ready pods by name: of the service's gateway or worker, of the operator, or of the redis there is."""
        selector, namespace = SELECTORS.get(
            component, (f"{names.LABEL_SERVICE}={SERVICE},{names.LABEL_COMPONENT}={component}", "default")
        )
        found: list[dict[str, Any]] = self.cluster.get("pods", "-n", namespace, "-l", selector)["items"]
        living = [pod for pod in found if "deletionTimestamp" not in pod["metadata"] and is_ready(pod)]
        return sorted(living, key=lambda pod: str(pod["metadata"]["name"]))

    def find_master(self) -> dict[str, Any]:
        """The pod of Redis that is written to, by the word of a Sentinel if there are any. Raises ClusterError."""
        pods = self.list_pods("redis")
        if len(pods) == 1:
            return pods[0]
        ask = ("redis-cli", "-p", "26379", "sentinel", "get-master-addr-by-name", "easel")
        for pod in pods:
            name = pod["metadata"]["name"]
            said = self.cluster.kubectl("exec", name, "-n", NAMESPACE, "-c", "sentinel", "--", *ask)
            found = [each for each in pods if said.startswith(f"{each['metadata']['name']}.")]
            if found:
                return found[0]
        raise ClusterError(f"no master among {len(pods)} ready pods of Redis")

    def kill_pod(self, pod: dict[str, Any]) -> str:
        """SIGKILL to all processes of a pod's containers, which its kubelet starts again. Returns its name."""
        name, namespace = str(pod["metadata"]["name"]), pod["metadata"]["namespace"]
        containers = [each["name"] for each in pod["spec"]["containers"]]
        # Of a process that has written over its environment, only the namespace says whose it is.
        ask = ("--", "readlink", "/proc/self/ns/mnt")
        inside = {self.cluster.kubectl("exec", name, "-n", namespace, "-c", each, *ask).strip() for each in containers}
        found = [process for process in Path("/proc").glob("[0-9]*") if _is_of_pod(process, inside)]
        if not found:
            raise ClusterError(f"no process of pod {name} is there")
        for process in found:
            with suppress(ProcessLookupError):  # ended meanwhile, with its parent
                os.kill(int(process.name), signal.SIGKILL)
        return name

    def patch_service(self, spec: dict[str, Any]) -> None:
        """A merge patch of the service's spec."""
        self.cluster.kubectl("patch", "sds", SERVICE, "--type=merge", "-p", json.dumps({"spec": spec}))

    def read_condition(self, kind: str) -> tuple[str, str]:
        """Status and reason of a condition of the service."""
        status = self.cluster.get("sds", SERVICE).get("status", {})
        found = [each for each in status.get("conditions", ()) if each["type"] == kind]
        return (found[0]["status"], found[0]["reason"]) if found else ("", "")

    def wait_until(self, look: Callable[[], Seen], holds: Callable[[Seen], bool], seconds: float) -> float | None:
        """Seconds until ``holds``; None if that takes longer than ``seconds``. A look that fails is none."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            try:
                if holds(look()):
                    return time.monotonic() - began
            except ClusterError:
                pass  # the API server is away
            time.sleep(POLL_SECONDS)
        return None


def _is_of_pod(process: Path, namespaces: set[str]) -> bool:
    """Whether it runs in one of these mount namespaces. A kubelet's first thread enters them for what it starts there,
    and is none of the pod's."""
    return _read_link(process / "ns/mnt") in namespaces and Path(_read_link(process / "exe")).name != KUBELET_PROGRAM


def _read_link(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""  # the process has ended
