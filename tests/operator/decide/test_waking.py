"""A service that was asleep and is asked for an image says since when it wakes, what it waits for, and if too long."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from easel_contract import names
from easel_operator.decide.reconcile import decide
from easel_operator.decide.snapshot import ScrapeReport
from easel_operator.objects import Json

from tests.operator.decide.test_conditions import GATEWAY, build_running, crashed, find
from tests.operator.decide.test_rollouts import carry_out, find_stored
from tests.operator.objects import NOW, build_container_status, build_pod, build_service

ASLEEP = build_service(conditions=[{"type": "Ready", "status": "True", "reason": "ScaledToZero"}])
CREATED = "2026-11-23T11:59:00Z"


def starting(**changes: Any) -> Json:
    """A worker that was created a minute ago and isn't ready."""
    pod = build_pod(names.COMPONENT_WORKER, "first", is_ready=False, **changes)
    pod["metadata"]["creationTimestamp"] = CREATED
    return pod


def unplaced() -> Json:
    pod = starting(phase="Pending", containerStatuses=[], conditions=[])
    pod["spec"] = {}
    return pod


@pytest.mark.parametrize(
    ("pod", "phase"),
    [
        (unplaced(), "waits for a node"),
        (
            starting(containerStatuses=[build_container_status(waiting="ContainerCreating")]),
            "pulls its images, mounts its volumes or runs its init containers",
        ),
        (starting(), "has started and isn't ready yet"),
    ],
)
def test_a_waking_service_says_since_when_and_what_it_waits_for(pod: Json, phase: str) -> None:
    plan = decide(build_running(ASLEEP, GATEWAY, pod))
    ready = find(plan, "Ready")
    assert (ready["status"], ready["reason"]) == ("True", "Waking")
    assert "since 11:59:00 UTC" in ready["message"]
    assert f"pod first, created at 11:59:00 UTC, {phase}" in ready["message"]
    assert "no work" not in ready["message"]
    assert plan.look_again_at == NOW + timedelta(seconds=541), "when 600 s are over"


def test_one_that_wakes_for_too_long_is_not_ready() -> None:
    late = replace(build_running(ASLEEP, GATEWAY, starting()), now=NOW + timedelta(seconds=541))
    plan = decide(late)
    ready = find(plan, "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "WorkersUnavailable")
    assert "longer than the 600 s that a start may take" in ready["message"]
    assert "kubectl describe pod" in ready["message"]
    assert plan.look_again_at is None


def test_what_to_do_about_a_wake_up_that_takes_too_long_is_still_said_at_the_next_look() -> None:
    """The service's own status is news to the operator, which looks again at once."""
    late = carry_out(replace(build_running(ASLEEP, GATEWAY, starting()), now=NOW + timedelta(seconds=541)))
    again = carry_out(late)
    ready = find_stored(again, "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "WorkersUnavailable")
    assert "longer than the 600 s that a start may take" in ready["message"]
    assert "kubectl describe pod" in ready["message"]
    assert carry_out(again).service == again.service


def test_too_long_is_three_times_the_slow_starts_that_were_measured() -> None:
    service = {**ASLEEP, "status": {**ASLEEP["status"], "scaling": {"coldStartsSeconds": [300, 310, 290]}}}
    later = NOW + timedelta(seconds=800)
    assert find(decide(replace(build_running(service, GATEWAY, starting()), now=later)), "Ready")["status"] == "True"
    assert find(decide(replace(build_running(ASLEEP, GATEWAY, starting()), now=later)), "Ready")["status"] == "False"


def test_a_worker_that_cannot_load_its_model_is_no_waking_one() -> None:
    ready = find(decide(build_running(ASLEEP, GATEWAY, crashed(78, "no such file"))), "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "ModelLoadFailed")


def test_requests_that_wait_while_no_worker_is_ordered_are_not_called_no_work() -> None:
    waiting = ScrapeReport(is_broker_up=True, waiting_since=NOW - timedelta(seconds=20))
    snapshot = build_running(build_service(), GATEWAY, workers=0, scrape=waiting)
    ready = find(decide(snapshot), "Ready")
    assert (ready["status"], ready["reason"]) == ("True", "Waking")
    assert "Requests wait for the first worker since 11:59:40 UTC: no worker is ordered yet" in ready["message"]
    late = find(decide(replace(snapshot, now=NOW + timedelta(minutes=10))), "Ready")
    assert (late["status"], late["reason"]) == ("False", "WorkersUnavailable")
    assert "see the condition ScalingActive" in late["message"]


def test_asleep_is_said_only_where_nothing_waits_and_no_worker_is_wanted() -> None:
    ready = find(decide(build_running(ASLEEP, GATEWAY, workers=0, scrape=ScrapeReport(is_broker_up=True))), "Ready")
    assert (ready["status"], ready["reason"]) == ("True", "ScaledToZero")
