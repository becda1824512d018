"""The measured cold start: which pods count, and what is known without any."""

from easel_contract.gateway_config import ASSUMED_COLD_START_SECONDS
from easel_operator.autoscaling.cold_starts import (
    ANNOUNCED_TOLERANCE,
    REMEMBERED_STARTS,
    ColdStarts,
    recall_cold_starts,
    round_for_gateways,
)
from easel_operator.autoscaling.workers import PodCounts, WorkerPod

from tests.operator.autoscaling.support import after


def pod(name: str, created: float, ready: float | None = None) -> WorkerPod:
    return WorkerPod(name, after(created), None if ready is None else after(ready))


def measure(*ticks: list[WorkerPod]) -> ColdStarts:
    starts = ColdStarts()
    for pods in ticks:
        starts = starts.measure(pods)
    return starts


def test_a_start_lasts_from_creation_to_ready() -> None:
    assert measure([pod("a", 0)], [pod("a", 0, 73)]).seconds == (73.0,)


def test_a_pod_counts_once_although_it_loses_and_regains_readiness() -> None:
    starts = measure([pod("a", 0)], [pod("a", 0, 60)], [pod("a", 0)], [pod("a", 0, 900)])
    assert starts.seconds == (60.0,)


def test_pods_that_were_ready_when_the_operator_came_say_nothing() -> None:
    assert measure([pod("a", 0, 4000)], [pod("a", 0)], [pod("a", 0, 5000)]).seconds == ()


def test_until_a_start_was_seen_one_is_assumed() -> None:
    assert ColdStarts().median_seconds == ASSUMED_COLD_START_SECONDS


def test_the_last_starts_make_the_distribution() -> None:
    starts = recall_cold_starts([10.0] * 50)
    assert len(starts.seconds) == REMEMBERED_STARTS
    for number in range(REMEMBERED_STARTS):
        name = str(number)
        starts = starts.measure([pod(name, 0)]).measure([pod(name, 0, 100 + number)])
    assert starts.median_seconds == 109
    assert starts.start_up.timeout_seconds == 600, "three times the slow ones is less than ten minutes"


def test_nonsense_from_a_clock_that_jumped_or_a_broken_status_is_left_out() -> None:
    assert measure([pod("a", 100)], [pod("a", 100, 90)]).seconds == ()
    assert recall_cold_starts([-5, 0, 1e9, 30]).seconds == (30.0,)


def test_starting_pods_are_counted_on_until_they_are_overdue() -> None:
    start_up = recall_cold_starts([90]).start_up
    workers = (pod("old", -700), pod("new", -20), pod("ready", -100, -10))
    counts = PodCounts(desired=4, existing=3, ready=1, starting=2, unschedulable=0, workers=workers)
    assert start_up.list_starting_ages_seconds(counts, after(0)) == [20.0, 0.0], "one more was ordered just now"


def test_gateways_hear_of_another_cold_start_only_once_it_is_another() -> None:
    announced = round_for_gateways(88.0, None)
    assert announced == 90
    assert [round_for_gateways(median, announced) for median in (75.0, 84.4, 97.0, 110.0)] == [90] * 4
    assert round_for_gateways(90 * ANNOUNCED_TOLERANCE + 6, announced) == 120
    assert round_for_gateways(41.0, announced) == 45
    assert (round_for_gateways(2.0, 5.0), round_for_gateways(0.2, None)) == (5, 5), "seconds are no news"
