"""Who writes the number of workers, and which number."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from easel_contract import names
from easel_operator.autoscaling.observation import PodCounts
from easel_operator.autoscaling.planner import Plan, begin_history
from easel_operator.decide.pods import read_pods
from easel_operator.decide.scaling import build_decision, count_pods, find_stored_replicas
from easel_operator.decide.scaling_mode import ScalingMode, decide_scale
from easel_operator.decide.snapshot import ScalingDecision
from easel_operator.objects import Json

from tests.operator.objects import NOW, build_pod, build_service, build_unschedulable_pod

DISABLED = {"status": {"conditions": [{"type": "ScalingActive", "status": "False", "reason": "ScalingDisabled"}]}}
WORKING = {"status": {"conditions": [{"type": "ScalingActive", "status": "True", "reason": "ValidMetricFound"}]}}
PLAN = Plan(
    desired_replicas=4,
    proposals={},
    sentence="4 pods",
    is_limited_by_capacity=False,
    data_at=NOW,
    history=begin_history(4, NOW),
)

# situation → (mode, current replicas, autoscaler, desired, what the operator writes)
CASES: dict[str, tuple[ScalingMode, int, Json | None, int, int | None]] = {
    "a fixed number is the user's": (ScalingMode.FIXED, 3, None, 5, None),
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
    assert build_decision(service, None, PLAN, NOW) is None


def test_another_number_is_news() -> None:
    known = ScalingDecision(4, "4 pods", NOW)
    later = datetime(2026, 11, 23, 13, 0, 1, 500, tzinfo=UTC)
    news = build_decision(build_service(), known, replace(PLAN, desired_replicas=5, sentence="5 pods"), later)
    assert news == ScalingDecision(5, "5 pods", later.replace(microsecond=0))


def test_the_planner_begins_where_it_left_off() -> None:
    deployment = {"spec": {"replicas": 2}}
    assert find_stored_replicas(build_service(scaling={"desiredReplicas": 6}), deployment) == 6
    assert find_stored_replicas(build_service(), deployment) == 2
