"""What a service's resource says to people: why so many pods, what is wrong, what to do."""

from typing import Any

import pytest
from easel_cli.decide.service_view import build_view, describe_model


def build_service(*conditions: dict[str, str], **status: Any) -> dict[str, Any]:
    metadata = {"namespace": "art", "name": "sdxl", "uid": "u"}
    return {"metadata": metadata, "spec": {}, "status": {"conditions": list(conditions), **status}}


def condition(kind: str, status: str, reason: str, message: str = "") -> dict[str, str]:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message or f"{reason} it is.",
        "lastTransitionTime": "2026-11-27T10:00:00Z",
    }


def test_a_service_that_nobody_has_looked_at_says_so() -> None:
    view = build_view({"metadata": {"namespace": "art", "name": "sdxl"}, "spec": {"replicas": 2}})
    assert (view.ready, view.reason, view.desired_workers) == ("Unknown", "Pending", 2)
    assert "easel doctor" in view.message
    assert view.why == "spec.replicas is 2"


def test_the_planners_sentence_says_why() -> None:
    scaling = {"desiredReplicas": 4, "reason": "4 pods: 31 s of work wait", "decidedAt": "2026-11-27T10:00:00Z"}
    view = build_view(build_service(condition("Ready", "True", "Available"), scaling=scaling, readyReplicas=2))
    assert (view.ready_workers, view.desired_workers, view.why) == (2, 4, "4 pods: 31 s of work wait")
    assert view.problems == ()


@pytest.mark.parametrize(
    "harmless",
    [
        condition("Ready", "True", "ScaledToZero"),
        condition("ModelLoaded", "False", "ScaledToZero"),
        condition("ModelLoaded", "False", "Loading"),
        condition("ScalingActive", "False", "FixedReplicas"),
        condition("CapacityAvailable", "Unknown", "Pending"),
        condition("Reconciling", "False", "Complete"),
    ],
    ids=lambda each: f"{each['type']}-{each['reason']}",
)
def test_what_is_as_it_was_wanted_is_no_problem(harmless: dict[str, str]) -> None:
    assert build_view(build_service(harmless)).problems == ()


@pytest.mark.parametrize(
    "wrong",
    [
        condition("Ready", "False", "RedisUnavailable"),
        condition("Ready", "True", "ServingPreviousRevision"),
        condition("Ready", "Unknown", "OperatorGone"),
        condition("CapacityAvailable", "False", "InsufficientCapacity"),
        condition("ScalingActive", "False", "MetricsUnavailable"),
        condition("AddOnsAvailable", "False", "AReasonOfANewerRelease"),
    ],
    ids=lambda each: f"{each['type']}-{each['reason']}",
)
def test_what_is_wrong_is_said_in_the_operators_sentence(wrong: dict[str, str]) -> None:
    (problem,) = build_view(build_service(wrong)).problems
    assert (problem.conditions, problem.reason, problem.message) == (
        (wrong["type"],),
        wrong["reason"],
        wrong["message"],
    )


def test_conditions_that_say_the_same_are_one_problem() -> None:
    said = "the model isn't there"
    view = build_view(
        build_service(
            condition("Ready", "False", "ModelLoadFailed", said),
            condition("ModelLoaded", "False", "ModelLoadFailed", said),
            condition("Stalled", "True", "ModelLoadFailed", said),
        )
    )
    assert [problem.conditions for problem in view.problems] == [("Ready", "ModelLoaded")]


def test_a_canary_is_described_with_both_revisions_figures() -> None:
    canary = {
        "phase": "Running",
        "step": 1,
        "percent": 10,
        "message": "12 of 100 jobs",
        "canary": {"jobs": 12, "failures": 1, "p95Seconds": 4.5},
        "stable": {"jobs": 90, "failures": 0},
    }
    view = build_view(build_service(canary=canary))
    assert view.canary == (
        "Running, step 1 at 10 %; 12 of 100 jobs; new: 1 of 12 jobs failed, p95 4.5 s; stable: 0 of 90 jobs failed"
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"source":{"huggingFace":{"repository":"some/model","revision":"main"}}}', "some/model"),
        ('{"source":{"persistentVolumeClaim":{"claimName":"models","path":"sdxl"}},"dtype":"Auto"}', "models/sdxl"),
        ("some/model", "some/model"),
        ('{"source":{}}', '{"source":{}}'),
        ("", ""),
    ],
)
def test_a_revisions_model_is_named_by_its_source(text: str, named: str) -> None:
    assert describe_model(text) == named
