"""A pod that the kubelet evicts: its service says why, and which field helps, until another took its place."""

from dataclasses import replace
from typing import Any

import pytest
from easel_contract import names
from easel_operator.decide.reconcile import decide
from easel_operator.manifests.metadata import read_revision
from easel_operator.objects import Json

from tests.operator.decide.test_conditions import build_running, find
from tests.operator.decide.test_model_cache import begin_cached, build_fetching_pod, find_job
from tests.operator.objects import build_pod, build_service

GATEWAY = build_pod("gateway")
SERVICE = build_service()
WORKER_REVISION = next(
    read_revision(child)
    for child in build_running(SERVICE).children.values()
    if child["kind"] == "Deployment" and child["metadata"]["name"].endswith("worker")
)


def evict(pod: Json, message: str, *, created: str = "2026-11-23T11:40:00Z", at: str = "2026-11-23T11:58:00Z") -> Json:
    """As the kubelet leaves it."""
    target = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet", "lastTransitionTime": at}
    pod["metadata"] |= {"creationTimestamp": created, "annotations": {names.ANNOTATION_REVISION: WORKER_REVISION}}
    pod["status"] = {"phase": "Failed", "reason": "Evicted", "message": message, "conditions": [target]}
    return pod


def made(pod: Json, created: str) -> Json:
    pod["metadata"] |= {"creationTimestamp": created, "annotations": {names.ANNOTATION_REVISION: WORKER_REVISION}}
    return pod


FULL = 'Usage of EmptyDir volume "cache" exceeds the limit "200Gi". '


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        (FULL, "raise spec.worker.scratch.cache, or keep the model on a claim (spec.model.cache)"),
        ('Usage of EmptyDir volume "tmp" exceeds the limit "10Gi". ', "raise spec.worker.scratch.tmp"),
        (
            'Container server exceeded its local ephemeral storage limit "1Gi". ',
            "raise spec.worker.resources.limits.ephemeral-storage",
        ),
        (
            "The node was low on resource: ephemeral-storage. ",
            "its node ran out: ask for what pods use in spec.worker.resources.requests",
        ),
    ],
)
def test_what_the_kubelet_said_and_the_field_that_helps(message: str, advice: str) -> None:
    plan = decide(build_running(SERVICE, GATEWAY, evict(build_pod("worker", "gone"), message)))
    for condition in (find(plan, "Ready"), find(plan, "ModelLoaded")):
        assert (condition["status"], condition["reason"]) == ("False", "Evicted")
        assert f"Pod gone was evicted: {message.rstrip('. ')}; {advice}" in condition["message"]


def test_who_serves_beside_it_is_said() -> None:
    beside = made(build_pod("worker", "beside"), "2026-11-23T11:00:00Z")
    plan = decide(build_running(SERVICE, GATEWAY, beside, evict(build_pod("worker", "gone"), FULL), workers=2))
    ready = find(plan, "Ready")
    assert (ready["status"], ready["reason"]) == ("True", "Degraded")
    assert "1 of 2 worker pods are ready. Pod gone was evicted" in ready["message"]


def is_said(*pods: Json, **changes: Any) -> bool:
    return "evicted" in find(decide(build_running(SERVICE, GATEWAY, *pods, **changes)), "Ready")["message"]


def test_nothing_is_said_once_another_pod_took_its_place_or_an_hour_has_passed() -> None:
    starting = made(build_pod("worker", "next", is_ready=False), "2026-11-23T11:58:05Z")
    assert is_said(evict(build_pod("worker", "gone"), FULL), starting)
    ready = made(build_pod("worker", "next"), "2026-11-23T11:58:05Z")
    assert not is_said(evict(build_pod("worker", "gone"), FULL), ready)
    assert not is_said(evict(build_pod("worker", "gone"), FULL, at="2026-11-23T10:58:00Z"))


def test_an_eviction_of_an_earlier_spec_says_nothing_of_this_one() -> None:
    earlier = evict(build_pod("worker", "gone"), FULL)
    earlier["metadata"]["annotations"] = {names.ANNOTATION_REVISION: "another"}
    assert not is_said(earlier)


def test_a_gateway_is_named_by_its_own_field() -> None:
    gone = evict(build_pod("gateway", "gone"), 'Usage of EmptyDir volume "tmp" exceeds the limit "2Gi". ')
    revision = next(
        read_revision(child)
        for child in build_running(SERVICE).children.values()
        if child["kind"] == "Deployment" and child["metadata"]["name"].endswith("gateway")
    )
    gone["metadata"]["annotations"] = {names.ANNOTATION_REVISION: revision}
    ready = find(decide(build_running(SERVICE, gone)), "Ready")
    assert ready["reason"] == "Evicted"
    assert "raise spec.gateway.scratch.tmp" in ready["message"]


def test_an_evicted_job_of_the_cache_is_said_of_the_service() -> None:
    fetching = begin_cached()
    pod = evict(build_fetching_pod(find_job(fetching)), 'Usage of EmptyDir volume "tmp" exceeds the limit "10Gi". ')
    loaded = find(decide(replace(fetching, pods=(pod, GATEWAY))), "ModelLoaded")
    assert loaded["reason"] == "Evicted"
    assert "raise spec.worker.scratch.tmp" in loaded["message"]
