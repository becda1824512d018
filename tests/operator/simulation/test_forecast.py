"""What a forecast is worth, in late requests and GPU-hours, with the whole planner and the cluster's autoscaler."""

import random

from easel_operator.simulation.outcome import Outcome
from easel_operator.simulation.policies.registry import build_policy
from easel_operator.simulation.simulation import simulate
from easel_operator.simulation.trace import Trace, build_trace

from tests.operator.simulation.support import build_settings

HOUR = 3600.0
TARGET = 30


def run(trace: Trace) -> Outcome:
    settings = build_settings(cold_start=90, grace=600, target_latency_seconds=TARGET)
    return simulate(trace, build_policy("easel", settings), settings)


def measure_late_percent(outcome: Outcome, since: float) -> float:
    latencies = [
        latency for at, latency in zip(outcome.arrival_seconds, outcome.latencies_seconds, strict=True) if at >= since
    ]
    return 100.0 * sum(latency > TARGET for latency in latencies) / len(latencies)


def test_two_hundred_jobs_at_each_full_hour_are_in_time_from_half_a_day_on_and_cost_less() -> None:
    source = random.Random(5)  # noqa: S311 - replayed by its seed
    batches = [
        (hour * HOUR + source.uniform(0, 1), source.uniform(2.5, 7.5)) for hour in range(1, 20) for _ in range(200)
    ]
    outcome = run(build_trace(batches, 20 * HOUR))
    assert measure_late_percent(outcome, 0.0) > 5.0, "the first ones can't be known"
    assert measure_late_percent(outcome, 11 * HOUR) < 5.0
    work_hours = sum(work for _, work in batches) / HOUR
    assert outcome.gpu_hours < 12 * work_hours  # of which reactive planning makes 16


def test_load_that_comes_and_goes_every_ten_minutes_is_met_by_pods_that_are_there() -> None:
    source = random.Random(6)  # noqa: S311 - replayed by its seed
    at, requests = 0.0, []
    while (at := at + source.expovariate(0.8)) < 16 * HOUR:
        if at % 1200 < 600:
            requests.append((at, source.uniform(2.5, 7.5)))
    outcome = run(build_trace(requests, 16 * HOUR))
    assert measure_late_percent(outcome, 8 * HOUR) < 2.0
