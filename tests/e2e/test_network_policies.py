"""Who reaches whom where NetworkPolicies are enforced, by kube-router's controller: a service works, strangers don't.

A cluster of its own: elsewhere they would only cost time. Beside each refusal there is one who is let through, so that
nothing is refused for another reason.
"""

import base64
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from demo import cluster as clusters
from demo.cluster import NAMESPACE, Cluster
from tests.e2e.operators.living import World, build_service
from tests.e2e.waiting import wait_until

pytestmark = pytest.mark.embedded  # with its switch

GUARDED, OPEN = "guarded", "open"
HTTP, METRICS, REDIS, HEALTH, METRICS_API = 8080, 9090, 6379, 8081, 6443
REACHED, REFUSED = "reached", "refused"
FOLLOW_SECONDS = 30  # until the rules have followed a new pod
IMAGE = "ghcr.io/easel-dev/easel-gateway:1"

ASK = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 3).close()
    print("reached")
except socket.gaierror:
    raise
except OSError:
    print("refused")
"""
GENERATE = """
import json, sys, urllib.request
body = json.dumps({"prompt": "a fox", "response_format": "b64_json"}).encode()
headers = {"content-type": "application/json"}
request = urllib.request.Request(f"http://{sys.argv[1]}/v1/images/generations", body, headers)
print(json.load(urllib.request.urlopen(request, timeout=60))["data"][0]["b64_json"])
"""


def labels(service: str, component: str) -> dict[str, str]:
    """As the operator and the chart give them; anybody may."""
    return {
        "app.kubernetes.io/name": "easel",
        "app.kubernetes.io/instance": service,
        "app.kubernetes.io/component": component,
        **({} if component == "operator" else {"easel.dev/service": service}),
    }


# Namespace and labels.
STRANGERS: dict[str, tuple[str, dict[str, str]]] = {
    "caller": ("callers", {}),
    "monitor": ("monitoring", {}),
    "neighbour": ("default", {}),
    "guesser": ("default", labels("nobody", "worker")),
    "double": ("default", labels(GUARDED, "worker")),
    "far-double": ("strangers", labels(GUARDED, "worker")),
    "far-operator": ("strangers", labels("easel", "operator")),
}


def of_namespace(name: str) -> dict[str, Any]:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


class Enforced:
    """The cluster, with who may ask for something in it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.pods = {name: (namespace, name) for name, (namespace, _) in STRANGERS.items()}

    def start_strangers(self) -> None:
        """Pods that only wait to be told."""
        for namespace in sorted({namespace for namespace, _ in STRANGERS.values()} - {"default"}):
            self.cluster.kubectl("create", "namespace", namespace)
        for name, (namespace, own) in STRANGERS.items():
            command = ["python", "-c", "import time; time.sleep(86400)"]
            container = {"name": "main", "image": IMAGE, "command": command}
            spec = {"containers": [container], "terminationGracePeriodSeconds": 1}
            metadata = {"name": name, "namespace": namespace, "labels": own}
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
            self.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(pod))
        for name, (namespace, _) in STRANGERS.items():
            self.cluster.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "-n", namespace, "--timeout=270s")

    def find(self, namespace: str, selector: str) -> dict[str, Any]:
        """A running pod that isn't one of the strangers."""
        listed = self.cluster.get("pods", "-n", namespace, "-l", selector)["items"]
        found = [pod for pod in listed if pod["metadata"]["name"] not in STRANGERS]
        pod: dict[str, Any] = next(pod for pod in found if pod["status"].get("podIP"))
        return pod

    def know(self, name: str, namespace: str, selector: str) -> None:
        """Call a pod so from here on."""
        self.pods[name] = (namespace, self.find(namespace, selector)["metadata"]["name"])

    def execute(self, who: str, code: str, *words: str) -> str:
        namespace, pod = self.pods[who]
        return self.cluster.kubectl("exec", "-n", namespace, pod, "--", "python", "-c", code, *words).strip()

    def address(self, who: str) -> str:
        namespace, pod = self.pods[who]
        return str(self.cluster.get("pod", pod, "-n", namespace)["status"]["podIP"])

    def expect(self, who: str, host: str, port: int, answer: str) -> None:
        """``host`` is a pod that is known, or a name."""
        address = self.address(host) if host in self.pods else host
        what = f"{who} to {host}:{port} is {answer}"
        wait_until(lambda: self.execute(who, ASK, address, str(port)), answer.__eq__, what, FOLLOW_SECONDS)


@pytest.fixture(scope="module")
def enforced() -> Iterator[Enforced]:
    """A guarded service and an open one, and the operator with a policy of its own."""
    state = clusters.ROOT / ".state" / f"policies-{os.getpid()}"
    try:
        cluster = clusters.start(state, hpa_sync_seconds=5, nodes=("cpu-0", "cpu-1"), network_policies=True)
        monitors = "networkPolicy.operator.monitors[0].namespaceSelector.matchLabels.kubernetes\\.io/metadata\\.name"
        clusters.install_chart(cluster, "networkPolicy.operator.enabled=true", f"{monitors}=monitoring")
        world, enforced = World(cluster, set()), Enforced(cluster)
        policy = {"clients": [of_namespace("callers")], "monitors": [of_namespace("monitoring")], "egress": []}
        scaling = {"minReplicas": 1, "maxReplicas": 2, "targetQueueDepth": 2}
        world.apply(build_service(GUARDED, networkPolicy=policy, scaling=scaling))
        world.apply(build_service(OPEN, replicas=1))
        enforced.start_strangers()
        for service in (GUARDED, OPEN):
            world.wait_for_ready(service, "True")
            for role in ("gateway", "worker"):
                selector = f"easel.dev/service={service},app.kubernetes.io/component={role}"
                enforced.know(f"{service} {role}", "default", selector)
        for part in ("operator", "redis"):
            enforced.know(part, NAMESPACE, f"app.kubernetes.io/component={part}")
        yield enforced
    finally:
        clusters.stop(state)


def test_a_guarded_service_makes_images_and_is_scaled_by_its_metrics(enforced: Enforced) -> None:
    image = base64.b64decode(enforced.execute("caller", GENERATE, f"{GUARDED}.default.svc"))
    assert image.startswith(b"\x89PNG")
    world = World(enforced.cluster, set())
    what = "the operator reads its pods' metrics, and the HPA the operator's"
    wait_until(lambda: world.read_condition(GUARDED, "ScalingActive")[0], "True".__eq__, what, 60)


@pytest.mark.parametrize(
    ("who", "answer"),
    [
        ("guarded worker", REACHED),
        ("open gateway", REACHED),
        ("operator", REACHED),
        ("double", REACHED),  # Redis then asks it for a password: docs/platform/installation.md, "What stays open"
        ("neighbour", REFUSED),
        ("guesser", REFUSED),
        ("far-double", REFUSED),
        ("far-operator", REFUSED),
        ("caller", REFUSED),
    ],
)
def test_redis_is_reached_by_pods_of_services_and_by_no_guessed_label(
    enforced: Enforced, who: str, answer: str
) -> None:
    enforced.expect(who, f"easel-redis.{NAMESPACE}.svc", REDIS, answer)


@pytest.mark.parametrize(
    ("who", "host", "port", "answer"),
    [
        ("caller", "guarded gateway", HTTP, REACHED),
        ("neighbour", "guarded gateway", HTTP, REFUSED),
        ("open worker", "guarded gateway", HTTP, REFUSED),
        ("monitor", "guarded gateway", METRICS, REACHED),
        ("caller", "guarded gateway", METRICS, REFUSED),
        ("open gateway", "guarded gateway", METRICS, REFUSED),
        ("far-operator", "guarded gateway", METRICS, REFUSED),
        ("monitor", "guarded worker", METRICS, REACHED),
        ("open gateway", "guarded worker", METRICS, REFUSED),
        ("far-operator", "guarded worker", METRICS, REFUSED),
        ("neighbour", "open gateway", METRICS, REACHED),  # which asked for no policy
    ],
)
def test_pods_of_a_guarded_service_are_reached_by_whom_it_names(
    enforced: Enforced, who: str, host: str, port: int, answer: str
) -> None:
    enforced.expect(who, host, port, answer)


@pytest.mark.parametrize(
    ("who", "host", "port", "answer"),
    [
        ("guarded gateway", "open gateway", HTTP, REFUSED),
        ("guarded worker", "kubernetes.default.svc", 443, REFUSED),
        ("open gateway", "kubernetes.default.svc", 443, REACHED),
        ("open gateway", "open gateway", HTTP, REACHED),
        ("operator", "kubernetes.default.svc", 443, REACHED),
        ("operator", "open gateway", METRICS, REACHED),
        ("operator", "open gateway", HTTP, REFUSED),
    ],
)
def test_guarded_pods_go_where_they_must_and_nowhere_else(
    enforced: Enforced, who: str, host: str, port: int, answer: str
) -> None:
    enforced.expect(who, host, port, answer)


@pytest.mark.parametrize(
    ("who", "port", "answer"),
    [
        ("monitor", HEALTH, REACHED),
        ("neighbour", HEALTH, REFUSED),
        ("double", HEALTH, REFUSED),
        ("neighbour", METRICS_API, REACHED),  # which then asks it for the aggregator's certificate
    ],
)
def test_the_operators_own_metrics_are_read_by_monitors(enforced: Enforced, who: str, port: int, answer: str) -> None:
    enforced.expect(who, "operator", port, answer)


def test_a_rule_of_the_services_opens_a_way_out(enforced: Enforced) -> None:
    """Last: it changes the guarded service."""
    to_open = {"podSelector": {"matchLabels": labels(OPEN, "gateway")}}
    policy = {"clients": [of_namespace("callers")], "egress": [{"to": [to_open], "ports": [{"port": HTTP}]}]}
    patch = json.dumps({"spec": {"networkPolicy": policy}})
    enforced.cluster.kubectl("patch", "sds", GUARDED, "--type=merge", "-p", patch)
    enforced.expect("guarded gateway", "open gateway", HTTP, REACHED)
    enforced.expect("guarded gateway", "open gateway", METRICS, REFUSED)
