"""Which pods a Prometheus of this machine scrapes, and by which labels: those of the chart's monitors."""

from typing import Any

from easel_contract import names

from demo.prometheus import JOB_OPERATOR, JOB_SERVICES, build_targets

HOST = "https://127.0.0.1:6443"


def pod(name: str, component: str, port: tuple[str, int], phase: str = "Running", **labels: str) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "art", "name": name, "labels": {names.LABEL_COMPONENT: component, **labels}},
        "spec": {"containers": [{"ports": [{"name": "http", "containerPort": 8000}, to_port(port)]}, {}]},
        "status": {"phase": phase},
    }


def to_port(port: tuple[str, int]) -> dict[str, Any]:
    return {"name": port[0], "containerPort": port[1]}


def test_a_service_s_pod_is_asked_through_the_api_server_and_named_by_itself() -> None:
    worker = pod("tiny-worker-0", "worker", (names.METRICS_PORT_NAME, 9090), **{names.LABEL_SERVICE: "tiny"})
    (target,) = build_targets(JOB_SERVICES, [worker], HOST)
    assert target["targets"] == ["127.0.0.1:6443"]
    assert target["labels"] == {
        "__metrics_path__": "/api/v1/namespaces/art/pods/tiny-worker-0:9090/proxy/metrics",
        "namespace": "art",
        "pod": "tiny-worker-0",
        "instance": "tiny-worker-0",
        "service": "tiny",
        "component": "worker",
    }


def test_the_operator_says_itself_whose_its_figures_are() -> None:
    (target,) = build_targets(JOB_OPERATOR, [pod("easel-operator-0", "operator", ("health", 8081))], HOST)
    assert "service" not in target["labels"]
    assert target["labels"]["__metrics_path__"].endswith("/easel-operator-0:8081/proxy/metrics")


def test_a_pod_that_does_not_run_or_has_no_metrics_is_no_target() -> None:
    waiting = pod("a", "worker", (names.METRICS_PORT_NAME, 9090), "Pending", **{names.LABEL_SERVICE: "tiny"})
    silent = pod("b", "worker", ("other", 1), **{names.LABEL_SERVICE: "tiny"})
    assert build_targets(JOB_SERVICES, [waiting, silent], HOST) == []
