"""Each check on facts: well, warned of, failed, and not known."""

from typing import Any

import pytest
from easel_cli.doctor.cluster_checks import check_cluster
from easel_cli.doctor.facts import CheckResult, Level, Unknown
from easel_cli.doctor.service_checks import check_service

from tests.cli.doctor.values import GPU, build_cluster, build_facts, build_node, build_pod

DENIED = Unknown("you may not list nodes")


def find(results: list[CheckResult], check: str) -> CheckResult:
    return next(result for result in results if result.check == check)


def test_all_is_well() -> None:
    results = check_cluster(build_cluster()) + check_service(build_cluster(), build_facts())
    assert [result for result in results if result.level is not Level.OK] == []
    assert {"Kubernetes", "Operator", "GPU nodes", "Redis", "Hub", "Images"} <= {result.check for result in results}


@pytest.mark.parametrize(
    ("changes", "check", "level", "message"),
    [
        ({"version": {"gitVersion": "v1.31.0", "minor": "31+"}}, "Kubernetes", Level.FAILED, "older than 1.33"),
        ({"version": DENIED}, "Kubernetes", Level.UNKNOWN, "may not"),
        ({"crd": None}, "Resource", Level.FAILED, "knows no StableDiffusionService"),
        (
            {"crd": {"spec": {"versions": [{"name": "v1alpha1", "served": True}]}}},
            "Resource",
            Level.WARNING,
            "not as v1beta1",
        ),
        ({"operators": []}, "Operator", Level.FAILED, "no operator runs"),
        ({"operators": DENIED}, "Operator", Level.UNKNOWN, "may not"),
        ({"operators": [build_pod("operator", conditions=[])]}, "Operator", Level.FAILED, "0 of 1 operator pods"),
        ({"lease": None}, "Operator", Level.FAILED, "none leads"),
        (
            {"lease": {"spec": {"holderIdentity": "a", "renewTime": "2026-11-27T09:00:00Z"}}},
            "Operator",
            Level.FAILED,
            "none leads",
        ),
        ({"lease": DENIED}, "Operator", Level.UNKNOWN, "who leads isn't known"),
        ({"api_service": None}, "External metrics API", Level.WARNING, "isn't registered"),
        (
            {"api_service": {"spec": {"service": {"namespace": "keda", "name": "keda-metrics"}}}},
            "External metrics API",
            Level.WARNING,
            "belongs to keda/keda-metrics, another adapter",
        ),
        (
            {
                "api_service": {
                    "spec": {"service": {"namespace": "easel-system", "name": "easel-operator"}},
                    "status": {"conditions": [{"type": "Available", "status": "False", "message": "no endpoints"}]},
                }
            },
            "External metrics API",
            Level.FAILED,
            "doesn't answer: no endpoints",
        ),
        ({"is_zero_supported": False}, "Scale to zero", Level.WARNING, "HPAScaleToZero"),
        ({"is_zero_supported": DENIED}, "Scale to zero", Level.UNKNOWN, "may not"),
    ],
)
def test_what_a_cluster_lacks(changes: dict[str, Any], check: str, level: Level, message: str) -> None:
    found = find(check_cluster(build_cluster(**changes)), check)
    assert found.level is level
    assert message in found.message
    assert found.next_step or level is Level.UNKNOWN, "a fault comes with what to do"


TAINTED = build_node(taints=[{"key": "team", "value": "blue", "effect": "NoSchedule"}])


@pytest.mark.parametrize(
    ("cluster", "service", "level", "message"),
    [
        ({"nodes": DENIED}, {}, Level.UNKNOWN, "you may not list nodes"),
        ({"nodes": [build_node(gpus=0)]}, {}, Level.FAILED, "none of 1 nodes offers 1 nvidia.com/gpu"),
        (
            {"nodes": [build_node()]},
            {"worker": {"gpu": {"resourceName": "amd.com/gpu"}}},
            Level.FAILED,
            "offers 1 amd.com/gpu; they offer nvidia.com/gpu",
        ),
        ({"nodes": [TAINTED]}, {}, Level.FAILED, "gpu-0: its taint team=blue:NoSchedule isn't tolerated"),
        ({"nodes": [TAINTED]}, {"worker": {"tolerations": [{"key": "team", "value": "blue"}]}}, Level.OK, "1 nodes"),
        ({"nodes": [TAINTED]}, {"worker": {"tolerations": [{"operator": "Exists"}]}}, Level.OK, "1 nodes"),
        (
            {"nodes": [TAINTED]},
            {"worker": {"tolerations": [{"key": "team", "value": "blue", "effect": "NoExecute"}]}},
            Level.FAILED,
            "isn't tolerated",
        ),
        ({"nodes": [TAINTED]}, {"worker": {"tolerations": [{"key": "team", "value": "red"}]}}, Level.FAILED, "isn't"),
        ({"nodes": [build_node(unschedulable=True)]}, {}, Level.FAILED, "gpu-0: it is cordoned"),
        ({}, {"worker": {"nodeSelector": {"zone": "b"}}}, Level.FAILED, "it lacks the label zone=b"),
        ({}, {"worker": {"nodeSelector": {"zone": "a"}}}, Level.OK, "1 nodes with 4"),
        ({}, {"scaling": {"maxReplicas": 9}}, Level.WARNING, "1 nodes with 4 nvidia.com/gpu take its workers, which"),
        ({"nodes": []}, {"worker": {"gpu": {"count": 0}}}, Level.OK, "run on CPU"),
    ],
)
def test_where_workers_may_run(cluster: dict[str, Any], service: dict[str, Any], level: Level, message: str) -> None:
    found = find(check_service(build_cluster(**cluster), build_facts(service)), "GPU nodes")
    assert (found.level, found.service) == (level, "art/sdxl")
    assert message in found.message


def test_the_deployment_is_believed_before_the_spec() -> None:
    """It has what the installation gives to all services, too."""
    facts = build_facts(worker_template={"tolerations": [{"key": "team", "operator": "Exists"}]})
    assert find(check_service(build_cluster(nodes=[TAINTED]), facts), "GPU nodes").level is Level.OK


NVIDIA_CLASS = [{"metadata": {"name": "nvidia"}}]


@pytest.mark.parametrize(
    ("classes", "named", "level"),
    [
        ([], None, None),
        (NVIDIA_CLASS, None, Level.WARNING),
        (NVIDIA_CLASS, "nvidia", Level.OK),
        (NVIDIA_CLASS, "other", Level.FAILED),
        (DENIED, "nvidia", Level.UNKNOWN),
    ],
)
def test_a_runtime_class(classes: Any, named: str | None, level: Level | None) -> None:
    worker = {"worker": {"podTemplate": {"spec": {"runtimeClassName": named}}}} if named else {}
    results = check_service(build_cluster(runtime_classes=classes), build_facts(worker))
    assert [result.level for result in results if result.check == "RuntimeClass"] == ([level] if level else [])


@pytest.mark.parametrize(
    ("claims", "cache", "classes", "level", "message"),
    [
        ({"models": {"status": {"phase": "Bound"}}}, None, None, Level.OK, "models is bound"),
        ({"models": None}, None, None, Level.FAILED, "models doesn't exist"),
        ({"models": {"status": {"phase": "Pending"}}}, None, None, Level.WARNING, "models is Pending"),
        ({"models": DENIED}, None, None, Level.UNKNOWN, "may not"),
        ({}, {"size": "5Gi"}, None, Level.OK, "StorageClass fast is there"),
        ({}, {"size": "5Gi", "storageClassName": "slow"}, None, Level.FAILED, "names StorageClass slow"),
        ({}, {"size": "5Gi"}, [], Level.FAILED, "has no default StorageClass"),
    ],
)
def test_storage(claims: Any, cache: Any, classes: Any, level: Level, message: str) -> None:
    model = {"model": {"source": {"huggingFace": {"repository": "some/model"}}, **({"cache": cache} if cache else {})}}
    cluster = build_cluster() if classes is None else build_cluster(storage_classes=classes)
    found = find(check_service(cluster, build_facts(model, claims=claims)), "Storage")
    assert found.level is level
    assert message in found.message


def test_a_quota_without_room_for_all_workers_is_warned_of() -> None:
    quota = {
        "metadata": {"name": "team"},
        "status": {"hard": {f"requests.{GPU}": "3", "pods": "50"}, "used": {f"requests.{GPU}": "2", "pods": "4"}},
    }
    results = check_service(build_cluster(), build_facts(quotas=[quota]))
    found = find(results, "Quota")
    assert found.level is Level.WARNING
    assert f"has room for 1 more of requests.{GPU}, and up to 3 are wanted at 4 workers" in found.message


def test_an_image_that_can_not_be_pulled_is_named() -> None:
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}
    stuck = build_pod("worker", containerStatuses=[{"name": "server", "image": "registry/none:1", "state": waiting}])
    found = find(check_service(build_cluster(), build_facts(pods=[stuck])), "Images")
    assert found.level is Level.FAILED
    assert "can't pull registry/none:1: not found" in found.message


@pytest.mark.parametrize(
    ("readiness", "level", "message"),
    [
        ({"ready": False, "reason": "RedisUnavailable", "message": "WRONGPASS"}, Level.FAILED, "WRONGPASS"),
        ({"ready": True, "reason": "RedisFull", "message": "full"}, Level.FAILED, "RedisFull"),
        ({"ready": True, "reason": "ImageStoreFull", "message": "full"}, Level.OK, "Secret sdxl-redis"),
        ({"ready": False, "reason": "Draining", "message": "ends"}, Level.UNKNOWN, "draining"),
        (None, Level.UNKNOWN, "no gateway runs"),
        (DENIED, Level.UNKNOWN, "may not"),
    ],
)
def test_redis_is_judged_by_a_gateway_that_has_the_secret(readiness: Any, level: Level, message: str) -> None:
    found = find(check_service(build_cluster(), build_facts(readiness=readiness)), "Redis")
    assert found.level is level
    assert message in found.message


LOADED = {"type": "ModelLoaded", "status": "True", "reason": "Loaded", "message": "."}


@pytest.mark.parametrize(
    ("hub", "conditions", "levels"),
    [
        ("HTTP 401", [], [Level.OK]),
        ("unreached: https://hub [Errno -2] no name", [], [Level.FAILED]),
        (Unknown("no worker runs"), [], [Level.UNKNOWN]),
        (Unknown("no worker runs"), [LOADED], [Level.OK]),
        (None, [], []),
    ],
)
def test_the_hub_is_judged_by_a_worker_that_has_its_network(hub: Any, conditions: Any, levels: list[Level]) -> None:
    facts = build_facts(hub=hub)
    service = {**facts.service, "status": {"conditions": conditions}}
    results = check_service(build_cluster(), build_facts(hub=hub, service=service))
    assert [result.level for result in results if result.check == "Hub"] == levels


def test_what_the_operator_says_is_wrong_fails() -> None:
    said = {"type": "Ready", "status": "False", "reason": "RedisUnavailable", "message": "no way to Redis"}
    service = {**build_facts().service, "status": {"conditions": [said]}}
    found = find(check_service(build_cluster(), build_facts(service=service)), "Conditions")
    assert (found.level, found.next_step) == (Level.FAILED, "easel status sdxl -n art")
    assert "no way to Redis" in found.message
