"""The chart's monitors and rules in a real Prometheus, over a service of two gateways and two workers."""

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from easel_contract import names
from easel_contract.server_config import EngineConfig, EngineKind, ModelConfig, ServerConfig, SyntheticConfig
from easel_operator.cluster.health_server import HealthServer
from easel_operator.operator_metrics import DESIRED_REPLICAS

from tests.chart.test_chart import CHART, helm, objects, of_kind
from tests.support.eventually import eventually
from tests.support.prometheus_server import PrometheusServer
from tests.support.redis_server import RedisServer, find_free_port
from tests.support.server_process import ServerProcess

__all__ = ["helm"]  # the fixture

pytestmark = [pytest.mark.cluster, pytest.mark.redis]  # helm comes with the embedded cluster's binary

RUNNING, WAITING = 2, 4
CONFIG = ServerConfig(
    namespace="studio",
    service="painter",
    model=ModelConfig(name="synthetic", source="studio/synthetic"),
    engine=EngineConfig(
        kind=EngineKind.SYNTHETIC, synthetic=SyntheticConfig(milliseconds_per_step=0, milliseconds_per_image=60_000)
    ),
)


@pytest.fixture
def pods() -> Iterator[dict[str, tuple[str, ServerProcess]]]:
    """Two gateways and two workers, by pod name, with their component."""
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        made = {}
        for component in (names.COMPONENT_GATEWAY, names.COMPONENT_WORKER):
            for number in range(2):
                name = f"painter-{component}-{number}"
                environment: dict[str, Any] = {names.ENV_REDIS_URL: redis.url, names.ENV_POD_NAME: name}
                process = ServerProcess("--role", component, config=CONFIG, **environment)
                made[name] = component, stack.enter_context(process)
        for _, process in made.values():
            process.wait_until_ready()
        yield made


def to_scrape(monitor: dict[str, Any]) -> dict[str, Any]:
    """A PodMonitor's endpoint as the Prometheus operator writes it into scrape_configs."""
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    relabelings = [
        {"source_labels": each["sourceLabels"], "target_label": each["targetLabel"]}
        for each in endpoint.get("relabelings", [])
    ]
    # What the operator adds to every PodMonitor's scrape.
    for source, target in (("__meta_kubernetes_namespace", "namespace"), ("__meta_kubernetes_pod_name", "pod")):
        relabelings.insert(0, {"source_labels": [source], "target_label": target})
    return {
        "honor_labels": endpoint.get("honorLabels", False),
        "relabel_configs": relabelings,
        "metric_relabel_configs": endpoint.get("metricRelabelings", []),
    }


def to_target(url: str, pod: str, namespace: str, **labels: str) -> dict[str, Any]:
    """A pod as service discovery sees it."""
    meta = {"__meta_kubernetes_namespace": namespace, "__meta_kubernetes_pod_name": pod}
    return {"targets": [url.removeprefix("http://")], "labels": meta | labels}


async def test_the_shipped_queries_count_each_thing_once_over_two_gateways_and_two_workers(
    helm: str, pods: dict[str, tuple[str, ServerProcess]]
) -> None:
    rendered = objects(helm, "monitoring.enabled=true")
    services, operator = of_kind(rendered, "PodMonitor")
    (rule,) = of_kind(rendered, "PrometheusRule")
    health = HealthServer(alive={}, ready={})
    port = find_free_port()
    await health.serve(port)
    DESIRED_REPLICAS.labels("studio", "painter").set(3)
    gateways = [process.url for component, process in pods.values() if component == names.COMPONENT_GATEWAY]
    async with httpx2.AsyncClient() as client:
        for number in range(RUNNING + WAITING):
            url = f"{gateways[number % 2]}/v1/predictions"
            answer = await client.post(url, json={"input": {"prompt": f"image {number}", "width": 64, "height": 64}})
            assert answer.status_code == 201
    labels = {
        name: {
            "__meta_kubernetes_pod_label_easel_dev_service": "painter",
            "__meta_kubernetes_pod_label_app_kubernetes_io_component": component,
        }
        for name, (component, _) in pods.items()
    }
    scrapes = {
        "services": [to_target(process.url, name, "studio", **labels[name]) for name, (_, process) in pods.items()],
        "operator": [to_target(f"127.0.0.1:{port}", "easel-operator-0", "easel-system")],
    }
    settings = {"services": to_scrape(services), "operator": to_scrape(operator)}
    with PrometheusServer(scrapes, settings=settings, rules=rule["spec"]) as prometheus:
        depth = 'namespace_service_state:easel_queue_depth:max{namespace="studio",service="painter",state="%s"}'
        expected = {
            depth % "Waiting": WAITING,
            depth % "Running": RUNNING,
            'namespace_service:easel_jobs_in_flight:sum{namespace="studio",service="painter"}': RUNNING,
            'namespace_service:easel_workers:max{namespace="studio",service="painter"}': 2,
            'namespace_service:easel_broker_up:max{namespace="studio",service="painter"}': 1,
            "sum by (namespace, service) (easel_jobs_submitted_total)": RUNNING + WAITING,
            # Each gateway counts its clients' requests, and neither the kubelet's nor Prometheus'.
            "sum(easel_http_requests_total)": RUNNING + WAITING,
            'easel_operator_desired_replicas{namespace="studio",service="painter"}': 3,
            # What pods say of themselves and what is known of them is the same, and there once.
            'count({__name__=~"easel_.+",namespace="studio",service="painter",exported_service!=""}) or vector(0)': 0,
            'count(easel_build_info{namespace="studio",service="painter"})': 4,
        }
        found: dict[str, float | None] = {}

        async def are_right() -> bool:
            found.update({query: await asyncio.to_thread(prometheus.read, query) for query in expected})
            return found == expected

        try:
            await eventually(are_right, 60)
        except AssertionError:
            assert found == expected
        naive = await asyncio.to_thread(prometheus.read, 'sum(easel_queue_depth{state="Waiting"})')
    await health.close()
    DESIRED_REPLICAS.remove("studio", "painter")
    assert naive == 4 * WAITING, "which is why the rule is there"


def test_rules_are_what_prometheus_reads() -> None:
    done = subprocess.run(
        ["promtool", "check", "rules", str(CHART / "files/rules.yaml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_name_metrics_that_there_are() -> None:
    sources = (
        "contract/src/easel_contract/metrics.py",
        "operator/src/easel_operator/operator_metrics.py",
        "operator/src/easel_operator/cluster/redis/figures.py",
    )
    known = "".join((Path(__file__).resolve().parents[2] / source).read_text() for source in sources)
    groups = yaml.safe_load((CHART / "files/rules.yaml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    recorded = {rule["record"] for rule in rules if "record" in rule}
    for rule in rules:
        for word in rule["expr"].replace("(", " ").replace("{", " ").replace("[", " ").replace(")", " ").split():
            if word.startswith("easel_"):
                name = word.removesuffix("_bucket").removesuffix("_count").removesuffix("_total")
                assert name in known, word
            elif word.startswith("namespace_"):
                assert word in recorded, word


def test_nothing_of_it_is_made_where_it_isn_t_asked_for(helm: str) -> None:
    assert {item["kind"] for item in objects(helm)} & {"PodMonitor", "PrometheusRule"} == set()


def test_monitors_carry_the_labels_that_a_prometheus_selects_by(helm: str) -> None:
    rendered = objects(helm, "monitoring.enabled=true", "monitoring.labels.release=prometheus")
    found = [*of_kind(rendered, "PodMonitor"), *of_kind(rendered, "PrometheusRule")]
    assert [item["metadata"]["labels"]["release"] for item in found] == ["prometheus"] * 3
