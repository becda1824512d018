"""Merging pods' samples: one queue, many counters, restarts, gaps, and figures that nobody gave."""

import math
from dataclasses import replace

import pytest
from easel_contract import names
from easel_operator.autoscaling.counters import (
    WINDOW,
    CounterReading,
    Window,
    advance,
    count_within,
    estimate_quantile,
)
from easel_operator.autoscaling.observation import Observation, PodSample, QueueReading, observe
from easel_operator.autoscaling.work import ASSUMED_JOB_SECONDS, Arrivals

from tests.operator.autoscaling.support import START, after, build_pods, build_sample


def advance_all(*ticks: dict[str, CounterReading], seconds: float = 10) -> Window:
    window = None
    for number, readings in enumerate(ticks):
        window = advance(window, readings, after(number * seconds))
    assert window is not None
    return window


def finished(window: Window) -> float | None:
    return window.last.counters.finished if window.last else None


def test_the_freshest_reading_of_the_queue_is_believed() -> None:
    samples = [
        build_sample("old", after(0), queue=QueueReading(50, 5)),
        build_sample("new", after(1), queue=QueueReading(3, 1)),
        build_sample("older", after(0.5), queue=QueueReading(0, 0)),
    ]
    assert observe(samples, None, build_pods(), after(1)).queue == QueueReading(3, 1)


def test_of_equally_fresh_readings_the_fullest_is_believed() -> None:
    samples = [build_sample(str(depth), queue=QueueReading(depth, 0)) for depth in (2, 7, 0)]
    assert observe(samples, None, build_pods(), START).queue == QueueReading(7, 0)


def test_a_pod_that_lost_redis_does_not_speak_for_the_queue() -> None:
    samples = [
        build_sample("cut off", after(1), queue=QueueReading(0, 0), broker_up=False),
        build_sample("connected", after(0), queue=QueueReading(4, 2)),
    ]
    observation = observe(samples, None, build_pods(2), after(1))
    assert observation.queue == QueueReading(4, 2)
    assert observation.broker_up is True


def test_nothing_scraped_is_nothing_known() -> None:
    observation = observe((), None, build_pods(), START)
    known = (
        observation.queue,
        observation.broker_up,
        observation.latency_p95_seconds,
        observation.backlog_gpu_seconds,
        observation.arrivals.arrived_gpu_seconds,
        observation.growth,
    )
    assert known == (None,) * 6


def test_only_workers_that_say_so_are_idle() -> None:
    samples = [
        build_sample("idle", in_flight=0),
        build_sample("busy", in_flight=2),
        build_sample("quiet", in_flight=None),
        PodSample("dead", names.COMPONENT_WORKER, START, None, "no answer"),
    ]
    assert observe(samples, None, build_pods(4), START).idle_pods == {"idle"}


def test_counters_of_pods_are_summed() -> None:
    window = advance_all(
        {"a": CounterReading(finished=10), "b": CounterReading(finished=100)},
        {"a": CounterReading(finished=13), "b": CounterReading(finished=101)},
    )
    assert finished(window) == 4


def test_a_pod_first_seen_adds_nothing() -> None:
    window = advance_all(
        {"a": CounterReading(finished=10)}, {"a": CounterReading(finished=11), "b": CounterReading(finished=5000)}
    )
    assert finished(window) == 1


def test_a_counter_that_fell_was_reset() -> None:
    window = advance_all({"a": CounterReading(finished=500)}, {"a": CounterReading(finished=3)})
    assert finished(window) == 3


def test_one_pods_reset_does_not_hide_anothers_growth() -> None:
    window = advance_all(
        {"a": CounterReading(finished=500), "b": CounterReading(finished=0)},
        {"a": CounterReading(finished=3), "b": CounterReading(finished=2)},
    )
    assert finished(window) == 5


def test_a_pod_that_missed_scrapes_adds_what_it_did_meanwhile() -> None:
    window = advance_all({"a": CounterReading(finished=10)}, {}, {"a": CounterReading(finished=16)})
    assert finished(window) == 6


def test_a_pod_that_was_silent_for_longer_than_the_window_starts_anew() -> None:
    gap = {"b": CounterReading(finished=0)}
    window = advance_all({"a": CounterReading(finished=10)}, *[gap] * 8, {"a": CounterReading(finished=9000)})
    assert finished(window) is None


def test_a_tick_in_which_nobody_tells_is_unknown_and_not_zero() -> None:
    assert finished(advance_all({"a": CounterReading(finished=10)}, {})) is None


def test_what_only_new_pods_say_is_unknown_and_not_zero() -> None:
    assert finished(advance_all({"a": CounterReading(finished=10)}, {"b": CounterReading(finished=7)})) is None


def test_a_clock_that_was_set_back_begins_a_new_window() -> None:
    window = advance_all({"a": CounterReading(finished=10)}, {"a": CounterReading(finished=14)})
    back = advance(window, {"a": CounterReading(finished=15)}, after(-3600))
    assert back.growths == ()
    assert finished(advance(back, {"a": CounterReading(finished=17)}, after(-3590))) == 2


def test_a_clock_that_was_set_forward_tells_nothing_of_the_time_between() -> None:
    window = advance_all({"a": CounterReading(finished=10)}, {"a": CounterReading(finished=14)})
    assert finished(advance(window, {"a": CounterReading(finished=15)}, after(3600))) is None


def test_the_backlog_is_in_gpu_seconds_of_what_waits_and_the_rest_of_what_runs() -> None:
    queue = QueueReading(waiting=3, running=1, waiting_gpu_seconds=21.0, running_gpu_seconds=2.5)
    observation = observe([build_sample("a", queue=queue)], None, build_pods(), START)
    assert observation.backlog_gpu_seconds == 23.5


def test_servers_without_predictions_are_reckoned_with_measured_job_lengths() -> None:
    def tick(at: float, previous: Observation | None, finished: float, work: float) -> Observation:
        counters = CounterReading(submitted=finished, finished=finished, work_gpu_seconds=work)
        return observe(
            [build_sample("a", after(at), queue=QueueReading(2, 1), counters=counters)],
            previous,
            build_pods(),
            after(at),
        )

    first = tick(0, None, 100, 1000)
    assert first.backlog_gpu_seconds == pytest.approx(2.5 * ASSUMED_JOB_SECONDS)
    second = tick(2, first, 110, 1080)
    assert second.backlog_gpu_seconds == pytest.approx(2.5 * 8)
    assert second.arrivals.arrived_gpu_seconds == pytest.approx(80)


def test_while_gateways_are_updated_the_work_of_those_that_bound_none_counts_as_it_is() -> None:
    window = advance_all(
        {"old": CounterReading(predicted_gpu_seconds=0), "new": CounterReading(None, 0.0, 0.0)},
        {"old": CounterReading(predicted_gpu_seconds=50), "new": CounterReading(None, 300.0, 30.0)},
    )
    assert window.last is not None
    assert window.last.counters.predicted_gpu_seconds == 350
    assert window.last.counters.bounded_gpu_seconds == 80


def test_earlier_servers_that_bound_no_work_are_planned_by_all_of_it() -> None:
    earlier = QueueReading(waiting=3, running=1, waiting_gpu_seconds=210.0, running_gpu_seconds=20.0)
    bounded = replace(earlier, waiting_bounded_gpu_seconds=90.0, running_bounded_gpu_seconds=10.0, overrunning=0)
    for queue, expected in ((earlier, 230.0), (bounded, 100.0)):
        observation = observe([build_sample("a", queue=queue)], None, build_pods(), START)
        assert observation.bounded_backlog_gpu_seconds == expected
        assert observation.backlog_gpu_seconds == 230.0


def test_a_job_of_many_targets_says_no_more_of_the_arrivals_than_one_of_a_target() -> None:
    observation = None
    for number in range(2):
        counters = CounterReading(
            submitted=number, predicted_gpu_seconds=600.0 * number, bounded_gpu_seconds=30.0 * number
        )
        at = after(2.0 * number)
        observation = observe([build_sample("gateway", at, counters=counters)], observation, build_pods(), at)
    assert observation is not None
    arrivals = observation.arrivals
    assert arrivals.arrived_gpu_seconds == arrivals.job.mean_seconds == 30.0
    assert arrivals.unbounded_gpu_seconds_per_second == pytest.approx(20 * arrivals.gpu_seconds_per_second)


def submit(*totals: float | None, seconds: float = 2.0) -> Arrivals:
    """A gateway's counter at ticks that are ``seconds`` apart; None: it didn't answer."""
    observation = None
    for number, total in enumerate(totals):
        at = after(number * seconds)
        counters = CounterReading(submitted=total, predicted_gpu_seconds=total)
        samples = [] if total is None else [build_sample("gateway", at, counters=counters)]
        observation = observe(samples, observation, build_pods(), at)
    assert observation is not None
    return observation.arrivals


def test_arrivals_are_gpu_seconds_per_second() -> None:
    steady = submit(*[3.0 * number for number in range(400)])
    assert steady.gpu_seconds_per_second == pytest.approx(1.5, rel=0.01)
    assert steady.job.mean_seconds == pytest.approx(1.0)


def test_the_length_of_a_tick_does_not_change_the_rate() -> None:
    fine = submit(*[2.0 * number for number in range(60)])
    coarse = submit(*[10.0 * number for number in range(12)], seconds=10)
    assert coarse.fast.per_second == pytest.approx(fine.fast.per_second, rel=0.05)


def test_a_burst_counts_at_once_and_is_not_forgotten_in_the_next_lull() -> None:
    burst = submit(*[0.0] * 200, *[8.0 * number for number in range(15)])
    assert burst.gpu_seconds_per_second > 1.0
    lull = submit(*[0.0] * 200, *[8.0 * number for number in range(15)], *[112.0] * 60)
    assert lull.gpu_seconds_per_second > 1.3 * lull.fast.per_second


def test_ticks_without_an_answer_are_not_silence() -> None:
    reported = submit(*[4.0 * number for number in range(100)])
    gap = submit(*[4.0 * number for number in range(90)], *[None] * 9, 4.0 * 99)
    assert gap.gpu_seconds_per_second == pytest.approx(reported.gpu_seconds_per_second, rel=0.05)
    silent = submit(*[4.0 * number for number in range(90)], *[None] * 9)
    assert silent.arrived_gpu_seconds is None
    assert silent.gpu_seconds_per_second == submit(*[4.0 * number for number in range(90)]).gpu_seconds_per_second


def test_the_first_moments_do_not_speak_for_more_than_they_are() -> None:
    assert submit(0.0, 4.0).gpu_seconds_per_second < 0.2  # and not 2


WITHIN = {
    "inside a bucket": (3.0, 5.0),
    "at a bound": (5.0, 10.0),
    "below the first bound": (0.5, 0.0),
    "in the last finite bucket": (9.0, 18.0),
    "beyond the last finite bound": (60.0, 20.0),
    "any time": (math.inf, 25.0),
}


@pytest.mark.parametrize(("seconds", "expected"), WITHIN.values(), ids=WITHIN.keys())
def test_jobs_within_a_time(seconds: float, expected: float) -> None:
    assert count_within(buckets(0, 10, 20, 25), seconds) == pytest.approx(expected)


def buckets(*counts: float) -> dict[float, float]:
    return dict(zip((1.0, 5.0, 10.0, math.inf), counts, strict=True))


def test_p95_is_of_what_finished_within_the_window() -> None:
    def tick(at: float, previous: Observation | None, *counts: float) -> Observation:
        sample = build_sample("a", after(at), counters=CounterReading(latency_buckets=buckets(*counts)))
        return observe([sample], previous, build_pods(), after(at))

    first = tick(0, None, 1000, 1000, 1000, 1000)
    assert first.latency_p95_seconds is None
    second = tick(10, first, 1000, 1000, 1010, 1010)
    assert second.latency_p95_seconds == pytest.approx(9.75)
    later = tick(10 + WINDOW.total_seconds(), second, 1000, 1000, 1010, 1010)
    assert later.latency_p95_seconds is None


def test_latencies_of_a_restarted_pod_count_in_full() -> None:
    window = advance_all(
        {"a": CounterReading(latency_buckets=buckets(90, 90, 90, 90))},
        {"a": CounterReading(latency_buckets=buckets(0, 4, 4, 4))},
    )
    assert window.latency_quantile_seconds(0.5) == pytest.approx(3.0)


def test_pods_with_other_buckets_are_merged_where_they_agree() -> None:
    old = CounterReading(latency_buckets={5.0: 0, math.inf: 0}), CounterReading(latency_buckets={5.0: 4, math.inf: 4})
    new = CounterReading(latency_buckets=buckets(0, 0, 0, 0)), CounterReading(latency_buckets=buckets(0, 4, 4, 4))
    window = advance_all({"old": old[0], "new": new[0]}, {"old": old[1], "new": new[1]})
    assert window.latency_quantile_seconds(0.5) == pytest.approx(2.5)


QUANTILES = {
    "in the middle of a bucket": (buckets(0, 10, 10, 10), 0.5, 3.0),
    "at a bucket's end": (buckets(0, 10, 10, 10), 1.0, 5.0),
    "in the first bucket, which begins at zero": (buckets(10, 10, 10, 10), 0.5, 0.5),
    "over two buckets": (buckets(0, 5, 10, 10), 0.75, 7.5),
    "beyond the last finite bound": (buckets(0, 0, 1, 100), 0.95, 10.0),
    "of nothing": (buckets(0, 0, 0, 0), 0.95, None),
    "without buckets": ({}, 0.95, None),
    "with nothing but the infinite one": ({math.inf: 5.0}, 0.95, None),
}


@pytest.mark.parametrize(("counts", "quantile", "expected"), QUANTILES.values(), ids=QUANTILES.keys())
def test_quantiles(counts: dict[float, float], quantile: float, expected: float | None) -> None:
    assert estimate_quantile(counts, quantile) == (pytest.approx(expected) if expected is not None else None)
