"""Which of the waiting requests is taken next, in either order; against a plain search through all of them."""

import random

import pytest
from easel_contract.resource import QueueOrder
from easel_operator.simulation.policies.fixed import FixedPolicy
from easel_operator.simulation.simulation import simulate
from easel_operator.simulation.trace import build_trace
from easel_operator.simulation.waiting import OrderRule, Waiting

from tests.operator.simulation.support import ScriptedPolicy, build_settings

TARGET_SECONDS = 30.0
BOUND_SECONDS = 100.0


def take_by_search(waiting: list[int], arrivals: list[float], works: list[float], now: float) -> int:
    """The rule in the words that describe it."""
    front = min(waiting)
    timely = [job for job in waiting if now - arrivals[job] + works[job] <= TARGET_SECONDS]
    if front in timely or now - arrivals[front] >= BOUND_SECONDS or not timely:
        return front
    return min(timely)


@pytest.mark.parametrize("seed", range(20))
def test_the_oldest_that_is_in_time_is_taken_and_the_oldest_once_it_was_overtaken_for_long(seed: int) -> None:
    source = random.Random(seed)  # noqa: S311 - replayed by its seed
    arrivals = sorted(source.uniform(0.0, 600.0) for _ in range(200))
    works = [source.uniform(1.0, 40.0) for _ in arrivals]
    waiting = Waiting(arrivals, works, OrderRule(QueueOrder.TARGET_FIRST, TARGET_SECONDS, BOUND_SECONDS))
    present: list[int] = []
    arrived, now = 0, 0.0
    while arrived < len(arrivals) or present:
        now += source.uniform(0.0, 8.0)
        while arrived < len(arrivals) and arrivals[arrived] <= now:
            waiting.add(arrived)
            present.append(arrived)
            arrived += 1
        if not present:
            continue
        assert waiting.find_oldest() == min(present)
        expected = take_by_search(present, arrivals, works, now)
        assert waiting.take(now) == expected, f"seed {seed}"
        if source.random() < 0.05:  # a pod was removed in the middle of its job
            now += source.uniform(0.0, 30.0)
            waiting.put_back(expected, now)
        else:
            present.remove(expected)
        assert len(waiting) == len(present)


def test_a_burst_that_is_late_anyway_makes_nobody_behind_it_late() -> None:
    """Four minutes of work at once, then a request every five seconds, one pod; pods would start in ten minutes."""
    trace = build_trace([(0.0, 2.0)] * 120 + [(100.0 + 5 * index, 2.0) for index in range(60)])
    late = {}
    for order in QueueOrder:
        settings = build_settings(cold_start=600, target_latency_seconds=30, order=order)
        outcome = simulate(trace, FixedPolicy(1), settings)
        late[order] = sum(seconds > 30 for seconds in outcome.latencies_seconds[120:])
        assert outcome.unfinished == 0
    assert late[QueueOrder.TARGET_FIRST] == 0
    assert late[QueueOrder.FIRST_COME_FIRST_SERVED] > 0


def test_nobody_is_overtaken_for_longer_than_a_cold_start_and_two_targets() -> None:
    """More comes than one pod can do, so somebody timely always waits; the first isn't starved."""
    trace = build_trace([(0.0, 40.0), *((0.5 + index, 1.5) for index in range(400))])
    settings = build_settings(cold_start=30, target_latency_seconds=30, order=QueueOrder.TARGET_FIRST)
    outcome = simulate(trace, ScriptedPolicy(0, [(0.0, 1)]), settings)
    assert 90 <= outcome.latencies_seconds[0] <= 90 + 40 + 2
