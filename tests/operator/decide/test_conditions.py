"""Each situation, in words, and the condition that a user reads in it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from easel_contract import names
from easel_contract.conditions import Reason
from easel_operator.decide.reconcile import decide
from easel_operator.decide.snapshot import ApplyFailure, Capabilities, ReconcilePlan, ScrapeReport, Snapshot
from easel_operator.objects import Json, ObjectKey

from tests.operator.objects import (
    HUB_MODEL,
    build_container_status,
    build_pod,
    build_service,
    build_snapshot,
    build_unschedulable_pod,
    index,
    settle,
)

GATEWAY = build_pod(names.COMPONENT_GATEWAY)
WORKER = build_pod(names.COMPONENT_WORKER)
FIXED = {"model": HUB_MODEL, "replicas": 1}
RECOMMENDED = {"model": HUB_MODEL, "scaling": {"maxReplicas": 8, "mode": "Recommend"}}
KEDA_NOTE = "v1beta1.external.metrics.k8s.io is served by keda/keda-operator"


def build_running(service: Json, *pods: Json, workers: int = 1, **changes: Any) -> Snapshot:
    """A service whose children are all there and settled, with these pods."""
    wanted = decide(build_snapshot(service)).applies
    children = [
        settle(child, workers if child["metadata"]["name"].endswith("worker") else 2)
        if child["kind"] == "Deployment"
        else child
        for child in wanted
    ]
    return build_snapshot(service, children=index(*children), pods=pods, **changes)


def with_autoscaler_condition(snapshot: Snapshot, status: str, reason: str, created: str) -> Snapshot:
    """The snapshot after the HPA controller has looked at its autoscaler."""
    key = ObjectKey("HorizontalPodAutoscaler", "studio", "painter-worker")
    live = snapshot.children[key]
    condition = {"type": "ScalingActive", "status": status, "reason": reason, "message": "no metrics returned"}
    changed = {
        **live,
        "metadata": {**live["metadata"], "creationTimestamp": created},
        "status": {"conditions": [condition]},
    }
    return replace(snapshot, children={**snapshot.children, key: changed})


def crashed(code: int, message: str = "", reason: str = "Error") -> Json:
    """A worker pod whose container has ended and waits for its next start."""
    ended = {"exitCode": code, "message": message, "reason": reason, "finishedAt": "2026-11-23T11:59:00Z"}
    status = build_container_status(waiting="CrashLoopBackOff", ended=ended, restarts=2)
    return build_pod(names.COMPONENT_WORKER, is_ready=False, containerStatuses=[status])


def pulling(component: str) -> Json:
    """A pod whose image can't be pulled."""
    status = build_container_status(waiting="ImagePullBackOff", message="manifest unknown")
    return build_pod(component, is_ready=False, containerStatuses=[status])


def without_secret() -> Json:
    """A gateway that names a Secret which doesn't exist."""
    status = build_container_status(waiting="CreateContainerConfigError", message='secret "keys" not found')
    return build_pod(names.COMPONENT_GATEWAY, is_ready=False, containerStatuses=[status])


def crashes_later() -> Json:
    """A worker that is ready just now, and has crashed again and again."""
    pod = build_pod(names.COMPONENT_WORKER)
    status = pod["status"]["containerStatuses"][0]
    status["restartCount"] = 5
    status["lastState"] = {"terminated": {"exitCode": 139, "reason": "Error", "finishedAt": "2026-11-23T11:58:00Z"}}
    return pod


def restarted(code: int, restarts: int, *, is_ready: bool) -> Json:
    """A worker that runs again after an end."""
    pod = build_pod(names.COMPONENT_WORKER, is_ready=is_ready)
    status = pod["status"]["containerStatuses"][0]
    status |= {"restartCount": restarts, "ready": is_ready}
    status["lastState"] = {"terminated": {"exitCode": code, "reason": "Error", "finishedAt": "2026-11-23T11:59:00Z"}}
    return pod


def engine_broke(*, is_ready: bool) -> Json:
    """A worker that runs again after the end of its engine."""
    pod = restarted(70, 1, is_ready=is_ready)
    ended = pod["status"]["containerStatuses"][0]["lastState"]["terminated"]
    ended["message"] = "the engine failed with RuntimeError: device-side assert"
    return pod


LOADING = build_pod(names.COMPONENT_WORKER, is_ready=False)
DEFAULT = build_service()
ASLEEP = build_service(conditions=[{"type": "Ready", "status": "True", "reason": "ScaledToZero"}])
NOT_OURS = Capabilities(
    is_metrics_api_ours=False,
    metrics_api_note=KEDA_NOTE,
    is_scale_to_zero_supported=True,
    is_tolerance_supported=True,
)
NO_ZERO = Capabilities(
    is_metrics_api_ours=True, metrics_api_note="", is_scale_to_zero_supported=False, is_tolerance_supported=True
)
CONFLICT = ApplyFailure(
    ObjectKey("Service", "studio", "painter"), Reason.CHILD_CONFLICT, "Service studio/painter exists"
)
REFUSED = ApplyFailure(
    ObjectKey("Deployment", "studio", "painter-worker"), Reason.APPLY_FAILED, "The API server says: exceeded quota"
)

# situation → (snapshot, condition, status, reason, part of the message)
CASES: dict[str, tuple[Callable[[], Snapshot], str, str, str, str]] = {
    "everything runs": (
        lambda: build_running(DEFAULT, GATEWAY, WORKER),
        "Ready",
        "True",
        "Available",
        "http://painter.studio.svc",
    ),
    "nothing exists yet": (build_snapshot, "Ready", "False", "GatewayUnavailable", "None of 2 gateway pods"),
    "no gateway is ready": (lambda: build_running(DEFAULT, WORKER), "Ready", "False", "GatewayUnavailable", "gateway"),
    "the worker is loading": (
        lambda: build_running(DEFAULT, GATEWAY, LOADING),
        "Ready",
        "False",
        "WorkersUnavailable",
        "None of 1 worker",
    ),
    "the worker is loading, and the model": (
        lambda: build_running(DEFAULT, GATEWAY, LOADING),
        "ModelLoaded",
        "False",
        "Loading",
        "loading the model",
    ),
    "the model is loaded": (
        lambda: build_running(DEFAULT, GATEWAY, WORKER),
        "ModelLoaded",
        "True",
        "Loaded",
        "holds the model",
    ),
    "idle, scaled to zero": (
        lambda: build_running(DEFAULT, GATEWAY, workers=0),
        "Ready",
        "True",
        "ScaledToZero",
        "the next request",
    ),
    "idle, and the model": (
        lambda: build_running(DEFAULT, GATEWAY, workers=0),
        "ModelLoaded",
        "False",
        "ScaledToZero",
        "No worker runs",
    ),
    "the first worker wakes up": (
        lambda: build_running(ASLEEP, GATEWAY, LOADING),
        "Ready",
        "True",
        "Waking",
        "Requests wait for the first worker since",
    ),
    "the first worker can't be scheduled": (
        lambda: build_running(ASLEEP, GATEWAY, build_unschedulable_pod("w-0")),
        "Ready",
        "False",
        "WorkersUnavailable",
        "Insufficient nvidia.com/gpu",
    ),
    "fixed at zero": (
        lambda: build_running(build_service({**FIXED, "replicas": 0}), GATEWAY, workers=0),
        "Ready",
        "False",
        "WorkersUnavailable",
        "set it to 1 or more",
    ),
    "the model can't be loaded": (
        lambda: build_running(DEFAULT, GATEWAY, WORKER, crashed(78, "sdxl-turbo: no such repository")),
        "Ready",
        "True",
        "Degraded",
        "1 of 1 worker pods are ready. Pod painter-worker-a can't load the model: sdxl-turbo: no such repository",
    ),
    "the model can't be loaded, and the model": (
        lambda: build_running(DEFAULT, GATEWAY, crashed(78, "401")),
        "ModelLoaded",
        "False",
        "ModelLoadFailed",
        "401",
    ),
    "a worker crashes": (
        lambda: build_running(DEFAULT, GATEWAY, WORKER, crashed(139)),
        "Ready",
        "True",
        "Degraded",
        "exit code 139",
    ),
    "a worker was killed once and starts again": (
        lambda: build_running(DEFAULT, GATEWAY, WORKER, restarted(137, 1, is_ready=False)),
        "Ready",
        "True",
        "Available",
        "http://painter.studio.svc",
    ),
    "a worker whose engine broke loads the model again": (
        lambda: build_running(DEFAULT, GATEWAY, engine_broke(is_ready=False)),
        "ModelLoaded",
        "False",
        "EngineFailed",
        "ended: the engine failed with RuntimeError: device-side assert; it starts anew, no job is lost",
    ),
    "a worker whose engine broke once has loaded the model again": (
        lambda: build_running(DEFAULT, GATEWAY, engine_broke(is_ready=True)),
        "ModelLoaded",
        "True",
        "Loaded",
        "Every ready worker",
    ),
    "the model was loaded after all": (
        lambda: build_running(DEFAULT, GATEWAY, restarted(78, 3, is_ready=True)),
        "Ready",
        "True",
        "Available",
        "http://painter.studio.svc",
    ),
    "a worker crashes some time after each start": (
        lambda: build_running(DEFAULT, GATEWAY, crashes_later()),
        "Ready",
        "True",
        "Degraded",
        "exit code 139",
    ),
    "a worker runs out of memory": (
        lambda: build_running(DEFAULT, GATEWAY, crashed(137, reason="OOMKilled")),
        "Ready",
        "False",
        "CrashLoop",
        "raise spec.worker.resources.limits.memory",
    ),
    "the image doesn't exist": (
        lambda: build_running(DEFAULT, pulling("gateway"), WORKER),
        "Ready",
        "False",
        "ImagePullFailed",
        "manifest unknown",
    ),
    "a Secret is missing": (
        lambda: build_running(DEFAULT, without_secret(), WORKER),
        "Ready",
        "False",
        "GatewayUnavailable",
        'secret "keys" not found; check the Secrets',
    ),
    "Redis may drop what it keeps": (
        lambda: build_running(
            DEFAULT, GATEWAY, WORKER, scrape=ScrapeReport(is_broker_up=False, is_redis_evicting=True)
        ),
        "Ready",
        "False",
        "RedisEvicts",
        "CONFIG SET maxmemory-policy noeviction",
    ),
    "Redis is away": (
        lambda: build_running(DEFAULT, GATEWAY, WORKER, scrape=ScrapeReport(is_broker_up=False)),
        "Ready",
        "False",
        "RedisUnavailable",
        "Check that Redis runs",
    ),
    "Redis is full": (
        lambda: build_running(DEFAULT, GATEWAY, WORKER, scrape=ScrapeReport(is_broker_up=True, is_redis_full=True)),
        "Ready",
        "False",
        "RedisFull",
        "Raise its maxmemory",
    ),
    "a child's name is taken": (
        lambda: build_running(DEFAULT, GATEWAY, WORKER, failures=(CONFLICT,)),
        "Ready",
        "False",
        "ChildConflict",
        "exists",
    ),
    "a child's name is taken, and progress": (
        lambda: build_running(DEFAULT, GATEWAY, failures=(CONFLICT,)),
        "Progressing",
        "False",
        "ChildConflict",
        "exists",
    ),
    "a change is refused while the pods serve": (
        lambda: build_running(DEFAULT, GATEWAY, WORKER, failures=(REFUSED,)),
        "Ready",
        "True",
        "ServingPreviousRevision",
        "The API server says: exceeded quota",
    ),
    "a change is refused while the pods serve, and progress": (
        lambda: build_running(DEFAULT, GATEWAY, WORKER, failures=(REFUSED,)),
        "Stalled",
        "True",
        "ApplyFailed",
        "The API server says: exceeded quota",
    ),
    "pods are being replaced": (build_snapshot, "Progressing", "True", "RollingOut", "all"),
    "all pods are there": (
        lambda: build_running(DEFAULT, GATEWAY, WORKER),
        "Progressing",
        "True",
        "Complete",
        "spec asks for",
    ),
    "no node for two of three workers": (
        lambda: build_running(DEFAULT, WORKER, build_unschedulable_pod("w-1"), build_unschedulable_pod("w-2")),
        "CapacityAvailable",
        "False",
        "InsufficientCapacity",
        "2 of 3 worker pods have no node: 0/3 nodes",
    ),
    "room for all": (lambda: build_running(DEFAULT, WORKER), "CapacityAvailable", "True", "Sufficient", "has a node"),
    "a fixed number": (
        lambda: build_running(build_service(FIXED), WORKER),
        "ScalingActive",
        "False",
        "FixedReplicas",
        "spec.scaling",
    ),
    "decisions are only recommended": (
        lambda: build_running(build_service(RECOMMENDED), WORKER),
        "ScalingActive",
        "False",
        "Recommending",
        "kubectl scale deployment painter-worker",
    ),
    "decisions are only recommended, and nobody has set a number": (
        lambda: build_running(build_service(RECOMMENDED), GATEWAY, workers=0),
        "Ready",
        "False",
        "WorkersUnavailable",
        "kubectl scale deployment painter-worker",
    ),
    "decisions are only recommended, and the cluster is full": (
        lambda: build_running(build_service(RECOMMENDED), build_unschedulable_pod("w-1")),
        "CapacityAvailable",
        "False",
        "InsufficientCapacity",
        "lower the replicas of Deployment painter-worker",
    ),
    "the autoscaler works": (
        lambda: with_autoscaler_condition(build_running(DEFAULT), "True", "ValidMetricFound", "2026-11-23T11:00:00Z"),
        "ScalingActive",
        "True",
        "FollowingDemand",
        "between 0 and 8 workers",
    ),
    "the autoscaler sleeps at zero": (
        lambda: with_autoscaler_condition(build_running(DEFAULT), "False", "ScalingDisabled", "2026-11-23T11:00:00Z"),
        "ScalingActive",
        "True",
        "FollowingDemand",
        "between 0 and 8 workers",
    ),
    "the autoscaler reads no metric": (
        lambda: with_autoscaler_condition(
            build_running(DEFAULT), "False", "FailedGetExternalMetric", "2026-11-23T11:00:00Z"
        ),
        "ScalingActive",
        "False",
        "MetricsUnavailable",
        "kubectl get apiservice",
    ),
    "the autoscaler reads no metric in its first minute": (
        lambda: with_autoscaler_condition(
            build_running(DEFAULT), "False", "FailedGetExternalMetric", "2026-11-23T11:59:30Z"
        ),
        "ScalingActive",
        "Unknown",
        "Pending",
        "on their way",
    ),
    "another adapter serves the metrics API": (
        lambda: build_running(DEFAULT, capabilities=NOT_OURS),
        "ScalingActive",
        "True",
        "DirectScaling",
        KEDA_NOTE,
    ),
    "the cluster's autoscaler can't go to zero": (
        lambda: build_running(DEFAULT, capabilities=NO_ZERO),
        "ScalingActive",
        "True",
        "DirectScaling",
        "HPAScaleToZero",
    ),
    "no pod reports the queue's depth": (
        lambda: build_running(DEFAULT, scrape=ScrapeReport(is_data_missing=True)),
        "ScalingActive",
        "False",
        "MetricsUnavailable",
        "the number of workers is held",
    ),
}


@pytest.mark.parametrize("situation", CASES)
def test_condition(situation: str) -> None:
    build, kind, status, reason, part = CASES[situation]
    condition = find(decide(build()), kind)
    assert (condition["status"], condition["reason"]) == (status, reason), condition["message"]
    assert part in condition["message"]


@pytest.mark.parametrize("situation", CASES)
def test_every_condition_is_written_on_first_sight(situation: str) -> None:
    plan = decide(CASES[situation][0]())
    assert plan.status_patch is not None
    kinds = [condition["type"] for condition in plan.status_patch["status"]["conditions"]]
    assert kinds == [
        "Ready",
        "Progressing",
        "ModelLoaded",
        "ScalingActive",
        "CapacityAvailable",
        "Reconciling",
        "Stalled",
    ]


def find(plan: ReconcilePlan, kind: str) -> Json:
    """The condition that the plan writes."""
    assert plan.status_patch is not None
    conditions: list[Json] = plan.status_patch["status"]["conditions"]
    return next(condition for condition in conditions if condition["type"] == kind)
