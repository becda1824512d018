"""Resource metrics, as `kubectl top` and autoscalers read them."""

import pytest

from tests.devcluster.cluster import Cluster, in_namespace, pod, wait_for

pytestmark = pytest.mark.cluster


def test_top_shows_a_busy_pod(cluster: Cluster, namespace: str) -> None:
    code = "import time, threading\nheld = bytearray(64 << 20)\nwhile True: pass"
    cluster.apply(in_namespace(namespace, pod("busy", "python3", "-c", code)))
    cluster.apply(in_namespace(namespace, pod("idle", "python3", "-c", "import signal; signal.pause()")))
    cluster.wait_ready("busy", namespace)
    cluster.wait_ready("idle", namespace)

    def figures() -> dict[str, tuple[int, int]] | None:
        top = cluster.kubectl("top", "pods", "-n", namespace, "--no-headers", check=False)
        lines = [line.split() for line in top.stdout.splitlines()]
        found = {name: (int(cpu.removesuffix("m")), int(memory.removesuffix("Mi"))) for name, cpu, memory in lines}
        return found if found.keys() == {"busy", "idle"} and found["busy"][0] > 0 else None

    found = wait_for("figures for both pods", figures)
    assert found["busy"][0] > 100, "it spins, and other programs leave it more than a tenth of a core"
    assert found["busy"][1] >= 64
    assert found["idle"][0] < 20
    nodes = cluster.kubectl("top", "nodes", "--no-headers").stdout
    measured = {line.split()[0] for line in nodes.splitlines() if "<unknown>" not in line}
    assert measured == {"cpu-0", "cpu-1", "gpu-0"}


def test_the_api_is_registered_with_a_verified_certificate(cluster: Cluster) -> None:
    spec = cluster.get("apiservice", "v1beta1.metrics.k8s.io")["spec"]
    assert spec["caBundle"]
    assert "insecureSkipTLSVerify" not in spec


def test_only_the_api_server_may_ask(cluster: Cluster) -> None:
    curl = ["curl", "--insecure", "--silent", "https://192.168.77.1:4443/apis/metrics.k8s.io/v1beta1"]
    done = cluster.run("exec", "--state-dir", str(cluster.state_dir), "--", *curl, check=False)
    assert done.returncode != 0, "a client without the aggregator's certificate was served"
