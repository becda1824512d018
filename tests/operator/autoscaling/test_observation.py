"""Merging pods' samples: one queue, many counters, restarts, gaps, and figures that nobody gave."""

import math

import pytest
from easel_contract import names
from easel_operator.autoscaling.counters import WINDOW, CounterReading, Window, advance, estimate_quantile
from easel_operator.autoscaling.observation import Observation, PodSample, QueueReading, observe

from tests.operator.autoscaling.support import START, after, build_pods, build_sample


def advance_all(*ticks: dict[str, CounterReading], seconds: float = 10) -> Window:
    window = None
    for number, readings in enumerate(ticks):
        window = advance(window, readings, after(number * seconds))
    assert window is not None
    return window


def finished(window: Window) -> float | None:
    return window.last.finished if window.last else None


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
        observation.arrivals_per_second,
        observation.finished,
    )
    assert known == (None,) * 5


def test_only_workers_that_say_so_are_idle() -> None:
    samples = [
        build_sample("idle", in_flight=0),
        build_sample("busy", in_flight=2),
        build_sample("quiet", in_flight=None),
        PodSample("dead", names.COMPONENT_WORKER, START, None, "no answer"),
    ]
    assert observe(samples, None, build_pods(4), START).idle_workers == 1


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
    assert finished(window) == 0


def test_a_tick_in_which_nobody_tells_is_unknown_and_not_zero() -> None:
    assert finished(advance_all({"a": CounterReading(finished=10)}, {})) is None


def test_arrivals_are_a_mean_over_the_window() -> None:
    ticks = [{"gateway": CounterReading(submitted=5.0 * number)} for number in range(20)]
    assert advance_all(*ticks).arrivals_per_second() == pytest.approx(0.5)


def test_arrivals_are_unknown_while_no_gateway_answers() -> None:
    window = advance_all({"g": CounterReading(submitted=1)}, {"g": CounterReading(submitted=9)}, {})
    assert window.arrivals_per_second() is None
    assert advance_all({"g": CounterReading(submitted=1)}).arrivals_per_second() is None


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
