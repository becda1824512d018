"""Who writes the number of workers, and which number."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from easel_contract import names
from easel_contract.metrics import DecisionReason
from easel_contract.resource import HeadroomStatus, StableDiffusionServiceSpec
from easel_operator.autoscaling.planner import Plan, begin_state
from easel_operator.autoscaling.replay.bank import Memory
from easel_operator.autoscaling.replay.setting import Setting
from easel_operator.autoscaling.workers import PodCounts, WorkerPod
from easel_operator.decide.pod_status import read_pods
from easel_operator.decide.scaling import build_decision, count_pods, recall_headroom, recall_planner_state
from easel_operator.decide.scaling_mode import ScalingMode, decide_mode, decide_scale
from easel_operator.decide.snapshot import ScalingDecision
from easel_operator.decide.status import build_headroom_events
from easel_operator.objects import Json

from tests.operator.objects import CAPABLE, HUB_MODEL, NOW, build_pod, build_service, build_unschedulable_pod

DISABLED = {"status": {"conditions": [{"type": "ScalingActive", "status": "False", "reason": "ScalingDisabled"}]}}
WORKING = {"status": {"conditions": [{"type": "ScalingActive", "status": "True", "reason": "ValidMetricFound"}]}}
HEADROOM = HeadroomStatus(
    margin_percent=75,
    hold_seconds=12,
    last_pod_seconds=600,
    reason="margin 0.75: the cheapest of 48",
    seen_minutes=36 * 60,
    debt_requests=12,
    debt_of_requests=900,
)
PLAN = Plan(
    reason=DecisionReason.QUEUE,
    desired_replicas=4,
    proposals={},
    sentence="4 pods",
    is_limited_by_capacity=False,
    data_at=NOW,
    state=begin_state(4, NOW, cold_starts_seconds=(61, 75)),
)

# situation → (mode, current replicas, autoscaler, desired, what the operator writes)
CASES: dict[str, tuple[ScalingMode, int, Json | None, int, int | None]] = {
    "a fixed number is the user's": (ScalingMode.FIXED, 3, None, 5, None),
    "what is only recommended": (ScalingMode.RECOMMEND, 3, WORKING, 5, None),
    "what is only recommended, to a service that another hand put to sleep": (
        ScalingMode.RECOMMEND,
        0,
        DISABLED,
        5,
        None,
    ),
    "directly up": (ScalingMode.DIRECT, 1, None, 4, 4),
    "directly to zero": (ScalingMode.DIRECT, 1, None, 0, 0),
    "directly, nothing to do": (ScalingMode.DIRECT, 4, None, 4, None),
    "the autoscaler does it": (ScalingMode.AUTOSCALER, 1, WORKING, 4, None),
    "the autoscaler wakes what it has put to sleep": (ScalingMode.AUTOSCALER, 0, WORKING, 4, None),
    "asleep by another hand, and work waits": (ScalingMode.AUTOSCALER, 0, DISABLED, 4, 4),
    "asleep by another hand, and no work waits": (ScalingMode.AUTOSCALER, 0, DISABLED, 0, None),
    "the autoscaler isn't there yet": (ScalingMode.AUTOSCALER, 0, None, 4, None),
}


@pytest.mark.parametrize("situation", CASES)
def test_scale(situation: str) -> None:
    mode, current, autoscaler, desired, expected = CASES[situation]
    assert decide_scale(mode, {"spec": {"replicas": current}}, autoscaler, desired) == expected


def test_pods_are_counted_by_what_they_can_do() -> None:
    pods = [
        build_pod(names.COMPONENT_WORKER, "ready"),
        build_pod(names.COMPONENT_WORKER, "loading", is_ready=False),
        build_unschedulable_pod("pending"),
        build_pod(names.COMPONENT_GATEWAY, "gateway"),
        build_pod(names.COMPONENT_WORKER, "failed", phase="Failed"),
    ]
    ending: Any = build_pod(names.COMPONENT_WORKER, "ending")
    ending["metadata"]["deletionTimestamp"] = "2026-11-23T12:00:00Z"
    workers = read_pods([*pods, ending], names.COMPONENT_WORKER, NOW)
    counts = count_pods(workers, {"spec": {"replicas": 3}})
    assert counts == PodCounts(desired=3, existing=3, ready=1, starting=1, unschedulable=1)


def test_the_same_number_is_no_news_after_a_restart() -> None:
    service = build_service(scaling={"desiredReplicas": 4})
    assert build_decision(service, None, PLAN, HEADROOM, NOW) is None


def test_another_number_is_news() -> None:
    known = ScalingDecision(4, "4 pods", NOW)
    later = datetime(2026, 11, 23, 13, 0, 1, 500, tzinfo=UTC)
    news = build_decision(build_service(), known, replace(PLAN, desired_replicas=5, sentence="5 pods"), HEADROOM, later)
    assert news == ScalingDecision(5, "5 pods", later.replace(microsecond=0), (61, 75), HEADROOM)


def test_the_planner_begins_where_it_left_off() -> None:
    deployment = {"spec": {"replicas": 2}}
    stored = {"desiredReplicas": 6, "coldStartsSeconds": [61, 75], "headroom": HEADROOM.to_wire()}
    service = build_service(scaling=stored)
    history = recall_planner_state(service, deployment, NOW)
    assert history.desired_replicas == 6
    assert list(history.cold_starts.seconds) == [61.0, 75.0]
    assert recall_headroom(service, 60.0) == Memory(Setting(0.75, 0.2, 10.0), 36 * 3600.0, 12.0, 900.0)


def test_the_planner_begins_with_what_the_deployment_has_where_nothing_is_stored() -> None:
    assert recall_planner_state(build_service(), {"spec": {"replicas": 2}}, NOW).desired_replicas == 2
    earlier_release = build_service(scaling={"desiredReplicas": 3})
    assert recall_planner_state(earlier_release, None, NOW).desired_replicas == 3


def test_ages_come_from_the_pods() -> None:
    ready: Any = build_pod(names.COMPONENT_WORKER, "ready")
    ready["metadata"]["creationTimestamp"] = "2026-11-23T11:00:00Z"
    ready["status"]["conditions"][1]["lastTransitionTime"] = "2026-11-23T11:01:10Z"
    loading: Any = build_pod(names.COMPONENT_WORKER, "loading", is_ready=False)
    loading["metadata"]["creationTimestamp"] = "2026-11-23T11:59:00Z"
    counts = count_pods(read_pods([ready, loading], names.COMPONENT_WORKER, NOW), {"spec": {"replicas": 2}})
    created, became = datetime(2026, 11, 23, 11, tzinfo=UTC), datetime(2026, 11, 23, 11, 1, 10, tzinfo=UTC)
    assert counts.workers == (
        WorkerPod("ready", created, became),
        WorkerPod("loading", datetime(2026, 11, 23, 11, 59, tzinfo=UTC), None),
    )


def test_a_rollout_is_seen_by_pods_of_another_template() -> None:
    seen = [count_pods((), {"status": {"replicas": 3, "updatedReplicas": new}}).is_rolling_out for new in (3, 1)]
    assert seen == [False, True]


# release → (keeps an autoscaler's tolerance, allows minReplicas 0), as kube_features.go of Kubernetes has the gates
RELEASES = {
    "1.33": (False, False),
    "1.34": (False, False),
    "1.35": (True, False),
    "1.36": (True, False),
    "1.37": (True, True),
}


@pytest.mark.parametrize("min_replicas", [0, 1])
@pytest.mark.parametrize("release", RELEASES)
def test_only_where_the_release_refuses_zero_the_operator_writes_the_scale_of_a_service_that_may_sleep(
    release: str, min_replicas: int
) -> None:
    has_tolerance, has_zero = RELEASES[release]
    found = replace(CAPABLE, is_tolerance_supported=has_tolerance, is_scale_to_zero_supported=has_zero)
    scaling = {"minReplicas": min_replicas, "maxReplicas": 8}
    decision = decide_mode(StableDiffusionServiceSpec.model_validate({"model": HUB_MODEL, "scaling": scaling}), found)
    is_refused = min_replicas == 0 and not has_zero
    assert decision.mode is (ScalingMode.DIRECT if is_refused else ScalingMode.AUTOSCALER)
    assert ("HPAScaleToZero" in decision.explanation) == is_refused


def test_a_recommendation_has_no_autoscaler() -> None:
    spec = StableDiffusionServiceSpec.model_validate(
        {"model": HUB_MODEL, "scaling": {"maxReplicas": 8, "mode": "Recommend"}}
    )
    assert decide_mode(spec, CAPABLE).mode is ScalingMode.RECOMMEND


def test_advice_that_comes_up_is_news_although_the_number_of_workers_stays() -> None:
    known = ScalingDecision(4, "4 pods", NOW, headroom=HEADROOM)
    advised = HEADROOM.model_copy(update={"advice": "9 % of requests are late"})
    assert build_decision(build_service(), known, PLAN, HEADROOM, NOW) is known
    news = build_decision(build_service(), known, PLAN, advised, NOW)
    assert news is not None
    assert news.headroom == advised
    stored = build_service(scaling={"desiredReplicas": 4, "headroom": HEADROOM.to_wire()})
    events = build_headroom_events(stored, news)
    assert [(event.reason, event.note) for event in events] == [("LateBudgetExceeded", "9 % of requests are late")]
    told = build_service(scaling={"desiredReplicas": 4, "headroom": advised.to_wire()})
    assert build_headroom_events(told, news) == ()
    assert build_decision(told, None, PLAN, advised, NOW) is None, "nor is it after a restart"


def test_what_a_later_release_stores_of_headroom_is_still_understood() -> None:
    stored = {"desiredReplicas": 6, "headroom": {**HEADROOM.to_wire(), "somethingNew": 3}}
    assert recall_headroom(build_service(scaling=stored), 60.0) == Memory(
        Setting(0.75, 0.2, 10.0), 36 * 3600.0, 12.0, 900.0
    )
    assert recall_headroom(build_service(scaling={"headroom": {"marginPercent": "much"}}), 60.0) is None
    assert recall_headroom(build_service(scaling={"latenessMarginPercent": 40}), 60.0) is None
