"""Nodes: GPUs, taints, and a machine that dies."""

import json
from typing import Any

import pytest

from tests.devcluster.cluster import Cluster, in_namespace, pod, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.embedded]

IDLE = ["python3", "-c", "import signal; signal.pause()"]
GPU_TOLERATION = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}


def gpu_pod(name: str, count: int) -> dict[str, Any]:
    container = {"resources": {"limits": {"nvidia.com/gpu": count}}}
    return pod(name, *IDLE, container=container, tolerations=[GPU_TOLERATION])


def is_ready(cluster: Cluster, node: str) -> bool:
    conditions = cluster.get("node", node)["status"]["conditions"]
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def test_nodes_say_what_they_have(cluster: Cluster) -> None:
    gpu, cpu = cluster.get("node", "gpu-0"), cluster.get("node", "cpu-0")
    assert gpu["status"]["capacity"]["nvidia.com/gpu"] == gpu["status"]["allocatable"]["nvidia.com/gpu"] == "4"
    assert gpu["metadata"]["labels"]["nvidia.com/gpu.present"] == "true"
    assert {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"} in gpu["spec"]["taints"]
    assert "nvidia.com/gpu" not in cpu["status"]["capacity"]
    assert gpu["spec"]["podCIDR"] != cpu["spec"]["podCIDR"]


def test_gpus_are_given_out_once(cluster: Cluster, namespace: str) -> None:
    for name in ("one", "two"):
        cluster.apply(in_namespace(namespace, gpu_pod(name, 2)))
        cluster.wait_ready(name, namespace)
        assert cluster.get("pod", name, "-n", namespace)["spec"]["nodeName"] == "gpu-0"
    cluster.apply(in_namespace(namespace, gpu_pod("three", 1)))
    wait_for("FailedScheduling", lambda: "Insufficient nvidia.com/gpu" in cluster.messages("three", namespace))
    assert cluster.get("pod", "three", "-n", namespace)["status"]["phase"] == "Pending"
    cluster.kubectl("delete", "pod", "one", "-n", namespace)
    cluster.wait_ready("three", namespace)


def test_pods_without_the_toleration_stay_off_gpu_nodes(cluster: Cluster, namespace: str) -> None:
    manifest = pod("plain", *IDLE, nodeSelector={"nvidia.com/gpu.present": "true"})
    cluster.apply(in_namespace(namespace, manifest))
    wait_for("FailedScheduling", lambda: "untolerated taint" in cluster.messages("plain", namespace))


def deployment(replicas: int) -> dict[str, Any]:
    template = pod("web", *IDLE, restartPolicy="Always")
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app": "web"}},
    }
    spec = {**template["spec"], "topologySpreadConstraints": [spread]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": template["metadata"], "spec": spec},
        },
    }


def test_a_dead_node(cluster: Cluster, namespace: str) -> None:
    cluster.apply(in_namespace(namespace, deployment(4)))
    rollout = ["rollout", "status", "deployment/web", "-n", namespace, "--timeout=60s"]
    cluster.kubectl(*rollout)
    nodes = {p["spec"]["nodeName"] for p in cluster.get("pods", "-n", namespace)["items"]}
    assert nodes == {"cpu-0", "cpu-1"}

    cluster.on_state(["node", "kill", "cpu-1"])
    components = json.loads(cluster.on_state(["status", "-o", "json"]).stdout)["components"]
    assert [c["name"] for c in components if not c["running"]] == ["kubelet-cpu-1"]
    try:
        wait_for("NotReady", lambda: not is_ready(cluster, "cpu-1"))

        def moved() -> bool:
            pods = cluster.get("pods", "-n", namespace)["items"]
            living = [p for p in pods if "deletionTimestamp" not in p["metadata"]]
            return len(living) == 4 and {p["spec"].get("nodeName") for p in living} == {"cpu-0"}

        wait_for("pods on the other node", moved)
        cluster.kubectl(*rollout)
    finally:
        cluster.on_state(["node", "restart", "cpu-1"])
    wait_for("Ready", lambda: is_ready(cluster, "cpu-1"))
    wait_for("the end of the old pods", lambda: len(cluster.get("pods", "-n", namespace)["items"]) == 4)


def test_a_drained_node(cluster: Cluster, namespace: str) -> None:
    cluster.apply(in_namespace(namespace, deployment(2)))
    cluster.kubectl("rollout", "status", "deployment/web", "-n", namespace, "--timeout=60s")
    try:
        cluster.on_state(["node", "drain", "cpu-0"])
        cluster.kubectl("rollout", "status", "deployment/web", "-n", namespace, "--timeout=60s")
        pods = cluster.get("pods", "-n", namespace, "--field-selector=status.phase=Running")["items"]
        assert {p["spec"]["nodeName"] for p in pods if "deletionTimestamp" not in p["metadata"]} == {"cpu-1"}
    finally:
        cluster.on_state(["node", "uncordon", "cpu-0"])
    assert "unschedulable" not in cluster.get("node", "cpu-0")["spec"]


def test_unknown_nodes_are_refused_by_name(cluster: Cluster) -> None:
    done = cluster.on_state(["node", "kill", "cpu-9"], check=False)
    assert done.returncode == 1
    assert 'no node "cpu-9"; there are cpu-0, cpu-1, gpu-0' in done.stderr


def test_simulated_nodes_take_many_pods(cluster: Cluster, namespace: str) -> None:
    many = deployment(60)
    many["spec"]["template"]["spec"].update(
        nodeSelector={"type": "kwok"},
        tolerations=[{"key": "kwok.x-k8s.io/node", "operator": "Equal", "value": "fake", "effect": "NoSchedule"}],
    )
    cluster.apply(in_namespace(namespace, many))
    cluster.kubectl("rollout", "status", "deployment/web", "-n", namespace, "--timeout=60s")
    pods = cluster.get("pods", "-n", namespace)["items"]
    assert {p["spec"]["nodeName"] for p in pods} == {"simulated-0", "simulated-1"}
