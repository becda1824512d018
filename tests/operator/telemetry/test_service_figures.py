"""How services stand, as metrics, read from what the API server says of them."""

from easel_contract import metrics, names
from easel_contract.resource import ServiceDefaults
from easel_operator.objects import Json, ObjectKey, ServiceKey
from easel_operator.telemetry.service_figures import ServiceFigures

from tests.operator.objects import HUB_MODEL, NOW, OWNER, build_pod, build_service, build_unschedulable_pod, index

WHOSE = {"namespace": OWNER.namespace, "service": OWNER.name}
SCALED: Json = {
    "model": HUB_MODEL,
    "scaling": {"minReplicas": 1, "maxReplicas": 8, "targetLatencySeconds": 30},
    "worker": {"gpu": {"count": 2}},
}


def read(service: Json, *children: Json, defaults: Json | None = None) -> dict[str, dict[tuple[str, ...], float]]:
    """By metric and by the values of the labels besides namespace and service."""
    known: dict[ObjectKey, Json] = index(*children)
    figures = ServiceFigures(
        [(ServiceKey(OWNER.namespace, OWNER.name), service)],
        lambda _: known,
        ServiceDefaults.model_validate(defaults or {}),
        lambda: NOW,
    )
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in figures.collect():
        for sample in family.samples:
            assert WHOSE.items() <= sample.labels.items()
            more = tuple(value for name, value in sample.labels.items() if name not in WHOSE)
            found.setdefault(sample.name, {})[more] = sample.value
    return found


def build_deployment(replicas: int, uid: str = OWNER.uid) -> Json:
    return {
        "kind": "Deployment",
        "metadata": {
            "namespace": OWNER.namespace,
            "name": names.worker_name(OWNER.name),
            "ownerReferences": [{"uid": uid, "controller": True}],
        },
        "spec": {"replicas": replicas},
    }


def test_of_each_condition_the_one_that_holds_now_is_said_with_its_reason() -> None:
    ready = {"type": "Ready", "status": "False", "reason": "WorkersNotReady", "message": "a sentence that changes"}
    scaling = {"type": "ScalingActive", "status": "True", "reason": "Active", "message": ""}
    assert read(build_service(SCALED, conditions=[ready, scaling]))[metrics.SERVICE_CONDITION] == {
        ("Ready", "False", "WorkersNotReady"): 1,
        ("ScalingActive", "True", "Active"): 1,
    }


def test_bounds_target_and_gpus_are_the_resources_own() -> None:
    found = read(build_service(SCALED))
    assert found[metrics.SERVICE_MIN_REPLICAS] == {(): 1}
    assert found[metrics.SERVICE_MAX_REPLICAS] == {(): 8}
    assert found[metrics.SERVICE_TARGET_LATENCY_SECONDS] == {(): 30}
    assert found[metrics.SERVICE_GPUS_PER_WORKER] == {(): 2}
    assert metrics.SERVICE_MAX_REPLICAS not in read(build_service({"model": HUB_MODEL, "replicas": 2}))


def test_the_price_is_the_services_own_before_the_installations_and_nothing_where_nobody_says_one() -> None:
    usual = {"worker": {"pricePerGpuHour": 2.5}, "currency": "EUR"}
    assert read(build_service(SCALED), defaults=usual)[metrics.SERVICE_GPU_HOUR_PRICE] == {("EUR",): 2.5}
    own = {**SCALED, "worker": {"pricePerGpuHour": 0}}
    assert read(build_service(own), defaults=usual)[metrics.SERVICE_GPU_HOUR_PRICE] == {("EUR",): 0}
    assert metrics.SERVICE_GPU_HOUR_PRICE not in read(build_service(SCALED))


def test_workers_are_counted_by_how_far_they_have_come_beside_how_many_are_ordered() -> None:
    worker = names.COMPONENT_WORKER
    pods = [
        build_pod(worker, "a"),
        build_pod(worker, "b"),
        build_pod(worker, "c", is_ready=False),
        build_pod(worker, "d", is_ready=False, containerStatuses=[]),
        build_unschedulable_pod("e"),
        build_pod(names.COMPONENT_GATEWAY),
    ]
    found = read(build_service(SCALED), build_deployment(6), *({"kind": "Pod", **pod} for pod in pods))
    assert found[metrics.SERVICE_WORKER_REPLICAS] == {(): 6}
    assert found[metrics.SERVICE_WORKER_PODS] == {("Placing",): 1, ("Preparing",): 1, ("Loading",): 1, ("Ready",): 2}


def test_a_deployment_of_somebody_elses_is_no_service_s_size() -> None:
    assert metrics.SERVICE_WORKER_REPLICAS not in read(build_service(SCALED), build_deployment(6, uid="another"))
