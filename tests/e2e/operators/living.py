"""Two services under two operators: who leads, what processes there are, and what an autoscaler gets to read."""

import asyncio
import json
import os
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from easel_contract import names
from easel_operator.cluster.client import KubernetesClient, KubernetesError
from kubernetes.aio import config as kubeconfigs
from kubernetes.aio.client import Configuration

from demo.cluster import NAMESPACE, Cluster, devcluster_binary, run
from tests.e2e.waiting import wait_until

SETTINGS = (
    "operator.replicas=2",
    "operator.nodeSelector.for=operators",
    "operator.tolerations[0].key=for",
    "operator.tolerations[0].operator=Exists",
)
SCALED, FIXED = "scaled", "fixed"
ASK_SECONDS = 0.5  # between two questions
PATIENCE_SECONDS = 3.0  # with an answer; an autoscaler has 30 s
LEADING_SECONDS = 15.0  # within which another leads
# What comes and goes, and the addresses of Services, services' own among them.
PASSING = {"Event", "PodMetrics", "NodeMetrics", "ComponentStatus", "IPAddress"}

Found = set[tuple[str, str]]


def build_service(name: str, namespace: str = "default", **spec: Any) -> dict[str, Any]:
    """A service of the synthetic engine, without a GPU."""
    engine = {"kind": "Synthetic", "synthetic": {"millisecondsPerStep": 1, "millisecondsPerImage": 1}}
    small = {"requests": {"cpu": "10m", "memory": "64Mi"}}
    return {
        "apiVersion": "easel.dev/v1beta1",
        "kind": "StableDiffusionService",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "model": {"source": {"huggingFace": {"repository": "easel-dev/synthetic"}}},
            "worker": {"engine": engine, "gpu": {"count": 0}, "resources": small, "terminationGracePeriodSeconds": 30},
            "gateway": {"replicas": 1, "resources": small},
            **spec,
        },
    }


def list_objects(cluster: Cluster) -> Found:
    """Kind and name of all that there is and isn't a service's."""
    kinds = cluster.kubectl("api-resources", "--verbs=list", "-o", "name").split()
    listed = cluster.get(",".join(kinds), "-A", "--ignore-not-found")["items"]
    return {
        (item["kind"], item["metadata"]["name"])
        for item in listed
        if item["kind"] not in PASSING and names.LABEL_SERVICE not in item["metadata"].get("labels", {})
    }


class World:
    """The cluster as those see it who use it."""

    def __init__(self, cluster: Cluster, before: Found | None = None) -> None:
        """``before``: what there was without the chart."""
        self.cluster = cluster
        self.before = before or set()

    def apply(self, service: dict[str, Any]) -> None:
        """``kubectl apply``."""
        self.cluster.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(service))

    def apply_services(self) -> None:
        """One that is scaled by its metrics, one whose number is fixed; both are served."""
        self.apply(build_service(SCALED, scaling={"minReplicas": 1, "maxReplicas": 3, "targetQueueDepth": 2}))
        self.apply(build_service(FIXED, replicas=1))
        for name in (SCALED, FIXED):
            self.wait_for_ready(name, "True")

    def read_condition(self, name: str, kind: str, namespace: str = "default") -> tuple[str, str]:
        """Status and reason of a condition."""
        status = self.cluster.get("sds", name, "-n", namespace).get("status", {})
        found = [each for each in status.get("conditions", ()) if each["type"] == kind]
        return (found[0]["status"], found[0]["reason"]) if found else ("", "")

    def wait_for_ready(self, name: str, status: str, *, namespace: str = "default", seconds: float = 120) -> None:
        """Until Ready has this status."""
        wait_until(
            lambda: self.read_condition(name, "Ready", namespace),
            lambda seen: seen[0] == status,
            f"{name}: Ready={status}",
            seconds,
        )

    def read_leader(self) -> str:
        """Who holds the lease, by its own word."""
        lease = self.cluster.get("lease", "easel-operator", "-n", NAMESPACE)
        return str(lease["spec"].get("holderIdentity", ""))

    def wait_for_two_operators(self) -> None:
        """Both ready, one of them leading."""
        self.cluster.kubectl("rollout", "status", "deployment/easel-operator", "-n", NAMESPACE, "--timeout=120s")
        wait_until(self.list_operators, lambda pods: len(pods) == 2, "two operators", 120)
        wait_until(self.read_leader, lambda name: name in self.list_operators(), "one leads", 30)

    def list_operators(self) -> dict[str, str]:
        """Ready pods of the operator, and their nodes."""
        pods = self.cluster.get("pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=operator")["items"]
        return {
            pod["metadata"]["name"]: pod["spec"]["nodeName"]
            for pod in pods
            if "deletionTimestamp" not in pod["metadata"]
            and any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"]["conditions"])
        }

    def count_restarts(self, pod: str) -> int:
        """How often an operator was started again."""
        return int(self.cluster.get("pod", pod, "-n", NAMESPACE)["status"]["containerStatuses"][0]["restartCount"])

    def change_number(self, replicas: int) -> None:
        """Another spec of the service whose number is fixed."""
        patch = json.dumps({"spec": {"replicas": replicas}})
        self.cluster.kubectl("patch", "sds", FIXED, "--type=merge", "-p", patch)

    def read_number(self) -> int:
        """What the operator has made of that."""
        return int(self.cluster.get("deployment", f"{FIXED}-worker")["spec"]["replicas"])

    def use_node(self, verb: str, node: str) -> None:
        """Kill or restart a node."""
        run(devcluster_binary(), "node", verb, node, "--state-dir", self.cluster.state / "cluster")

    def find_metric(self) -> str:
        """The address at which the HPA reads its first metric."""
        hpa = self.cluster.get("hpa", f"{SCALED}-worker")
        metric = hpa["spec"]["metrics"][0]["external"]["metric"]
        labels = ",".join(f"{name}={value}" for name, value in metric["selector"]["matchLabels"].items())
        base = "/apis/external.metrics.k8s.io/v1beta1/namespaces/default"
        return f"{base}/{metric['name']}?labelSelector={quote(labels)}"


def find_process(pod: str) -> int:
    """The process id of an operator's pod on this machine, on which all containers are processes."""
    marker = f"EASEL_POD_NAME={pod}".encode()
    for entry in Path("/proc").iterdir():
        try:
            is_it = entry.name.isdigit() and marker in (entry / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended meanwhile
            continue
        if is_it:
            return int(entry.name)
    raise AssertionError(f"no process of {pod}")


def send(pod: str, number: signal.Signals) -> int:
    """Signal an operator's process. Returns its id."""
    process = find_process(pod)
    os.kill(process, number)
    return process


@dataclass
class Answers:
    """What somebody got who asked for a metric all the time, as the autoscaler does now and then."""

    asked: int = 0
    failed: list[tuple[float, str]] = field(default_factory=list)  # seconds since the start
    longest_gap_seconds: float = 0.0  # between two answers

    def describe(self) -> str:
        """In one line."""
        return f"{self.asked} asked, {len(self.failed)} failed, longest gap {self.longest_gap_seconds:.1f} s"


class MetricsReader(threading.Thread):
    """Asks through the API server's aggregator each half second, from one context's beginning to its end."""

    def __init__(self, cluster: Cluster, path: str) -> None:
        super().__init__(daemon=True)
        self._cluster = cluster
        self._path = path
        self._is_done = threading.Event()
        self.answers = Answers()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._is_done.set()
        self.join()

    def run(self) -> None:
        """The thread's own."""
        asyncio.run(self._ask())

    async def _ask(self) -> None:
        configuration = Configuration()
        await kubeconfigs.load_kube_config(str(self._cluster.kubeconfig), client_configuration=configuration)
        client = KubernetesClient(configuration)
        began = answered = time.monotonic()
        path, _, query = self._path.partition("?")
        while not self._is_done.is_set():
            asked_at = time.monotonic()
            self.answers.asked += 1
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    found = await client.request("GET", f"{path}?{query}")
                if not found["items"]:
                    raise ValueError("no figure")
                now = time.monotonic()
                self.answers.longest_gap_seconds = max(self.answers.longest_gap_seconds, now - answered)
                answered = now
            except (KubernetesError, TimeoutError, ValueError) as error:
                self.answers.failed.append((round(asked_at - began, 1), f"{type(error).__name__} {error}"[:120]))
            await asyncio.sleep(max(0.0, ASK_SECONDS - (time.monotonic() - asked_at)))
        gap = time.monotonic() - answered
        self.answers.longest_gap_seconds = max(self.answers.longest_gap_seconds, gap)
        await client.close()
