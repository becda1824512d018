"""What only a real container runtime shows. In order: the last test takes the chart away."""

from typing import Any

from demo.cluster import NAMESPACE, RELEASE, Cluster
from demo.load import first_image, forwarded
from demo.observe import is_ready
from kindcluster.cluster import Layout
from kindcluster.engine import Engine
from tests.e2e.operators.living import build_service
from tests.e2e.waiting import Services, wait_until
from tests.kind.conftest import SERVICE

REDIS = f"easel-redis.{NAMESPACE}.svc"
POLICY_SECONDS = 60  # until the rules have followed a new pod

READ_THROTTLED = """
from pathlib import Path
root = Path("/sys/fs/cgroup")
stat = next(file for file in (root / "cpu.stat", root / "cpu/cpu.stat", root / "cpu,cpuacct/cpu.stat") if file.exists())
print(dict(line.split() for line in stat.read_text().splitlines())["nr_throttled"])
"""
ASK_REDIS = """
import socket, sys
try:
    connection = socket.create_connection((sys.argv[1], 6379), 3)
    connection.sendall(b"PING\\r\\n")
    print("answered" if connection.recv(1) else "closed")
except socket.gaierror:
    raise
except OSError:
    print("refused")
"""
STOP = """
cd /proc
for process in [0-9]*; do
  grep -q easel-server $process/cmdline && grep -qz "^HOSTNAME=$1$" $process/environ && kill -$2 $process
done 2>/dev/null
true
"""


def limited(name: str, **limits: str) -> dict[str, Any]:
    """A service whose worker has these limits."""
    service = build_service(name, replicas=1)
    service["spec"]["worker"]["resources"] = {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": limits}
    return service


def execute(services: Services, pod: str, code: str, *words: str) -> str:
    """What Python code says in a pod."""
    return services.cluster.kubectl("exec", pod, "--", "python", "-c", code, *words).strip()


def expect_redis_to(services: Services, pod: str, answer: str) -> None:
    """What a pod hears of Redis, once the rules have followed it."""
    wait_until(lambda: execute(services, pod, ASK_REDIS, REDIS), answer.__eq__, f"{pod} asks Redis", POLICY_SECONDS)


def test_helm_test_gets_an_image_from_a_service_of_its_own(cluster: Cluster) -> None:
    said = cluster.helm("test", RELEASE, "--namespace", NAMESPACE, "--logs", "--timeout", "5m")
    assert "An image of" in said


def test_an_image_comes_through_the_service(services: Services) -> None:
    with forwarded(services.cluster, SERVICE) as url:
        assert first_image(url).startswith(b"\x89PNG")


def test_a_gateway_that_hangs_gets_no_requests_until_it_goes_on(
    services: Services, engine: Engine, layout: Layout
) -> None:
    (gateway,) = services.pods(SERVICE, "gateway")
    name = gateway["metadata"]["name"]

    def signal(number: str) -> None:
        engine.call("exec", layout.nodes[0], "bash", "-c", STOP, "signal", name, number)

    def read_readiness() -> bool:
        return is_ready(services.cluster.get("pod", name))

    signal("STOP")
    try:
        wait_until(read_readiness, lambda ready: not ready, "a stopped gateway isn't ready", 60)
    finally:
        signal("CONT")
    # On a slow machine its liveness probe may have failed meanwhile: it starts anew then.
    wait_until(read_readiness, bool, "it is ready again", 180)


def test_a_worker_without_enough_memory_is_reported_with_what_to_raise(services: Services) -> None:
    name = services.apply(limited("starved", memory="24Mi"))
    try:
        loaded = services.wait_for(name, "ModelLoaded", "False", "CrashLoop", timeout_seconds=180)
        assert "runs out of memory (OOMKilled)" in loaded["message"]
        assert "raise spec.worker.resources.limits.memory" in loaded["message"]
    finally:
        services.cluster.kubectl("delete", "sds", name)


def test_a_worker_gets_no_more_of_the_processors_than_its_limit(services: Services) -> None:
    name = services.apply(limited("slow", cpu="150m", memory="512Mi"))
    try:
        services.wait_for(name, "Ready", "True", timeout_seconds=180)
        (worker,) = services.pods(name, "worker")
        assert int(execute(services, worker["metadata"]["name"], READ_THROTTLED)) > 0
    finally:
        services.cluster.kubectl("delete", "sds", name)


def test_redis_answers_pods_of_services_and_no_others(services: Services) -> None:
    (gateway,) = services.pods(SERVICE, "gateway")
    image = gateway["spec"]["containers"][0]["image"]
    pause = ("--command", "--", "python", "-c", "import time; time.sleep(3600)")
    services.cluster.kubectl("run", "stranger", f"--image={image}", "--image-pull-policy=IfNotPresent", *pause)
    try:
        services.cluster.kubectl("wait", "--for=condition=Ready", "pod/stranger", "--timeout=90s")
        expect_redis_to(services, gateway["metadata"]["name"], "answered")
        expect_redis_to(services, "stranger", "refused")
    finally:
        services.cluster.kubectl("delete", "pod", "stranger", "--wait=false")


def test_what_ran_goes_on_when_the_chart_is_gone(services: Services) -> None:
    cluster = services.cluster
    before = {pod["metadata"]["uid"] for pod in services.pods(SERVICE, "worker")}
    cluster.helm("uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", "--timeout", "5m")
    assert services.condition(SERVICE, "Ready")["reason"] == "OperatorGone"
    assert {pod["metadata"]["uid"] for pod in services.pods(SERVICE, "worker")} == before
    wait_until(
        lambda: [pod["metadata"]["name"] for pod in cluster.get("pods", "-n", NAMESPACE)["items"]],
        lambda left: not left,
        "no pod of the chart is left",
        120,
    )
