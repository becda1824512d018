"""Growth of pods' counters over a sliding window: rates and latency quantiles that survive restarts of pods.

A pod that is first seen sets a baseline and adds nothing, so that a restart of the operator doesn't take years of
counting for one tick's. A counter that fell belongs to a restarted process: all of its new value is growth. A pod that
missed some scrapes adds what it did meanwhile at its next one, if that is within WINDOW; else it is as good as new.
What only pods report that are seen first is unknown, not 0.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

WINDOW: Final = timedelta(seconds=60)

Buckets = Mapping[float, float]  # upper bound in seconds (infinity included) → jobs that took at most that long


@dataclass(frozen=True, slots=True)
class CounterReading:
    """One pod's counters since its process began; None where the pod exports none."""

    submitted: float | None = None  # gateway: jobs
    predicted_gpu_seconds: float | None = None  # gateway: work of the jobs submitted
    bounded_gpu_seconds: float | None = None  # gateway: of it, at most the target a job; None from earlier ones
    finished: float | None = None  # worker: jobs that succeeded or failed
    work_gpu_seconds: float | None = None  # worker: time that its GPU was busy
    latency_buckets: Buckets = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Growth:
    """What the fleet's counters grew by between two ticks; None where no pod could say."""

    since: datetime
    until: datetime
    counters: CounterReading


@dataclass(frozen=True, slots=True)
class PodReading:
    """The last counters of one pod, kept until it has been silent for WINDOW."""

    at: datetime
    counters: CounterReading


@dataclass(frozen=True, slots=True)
class Window:
    """What the fleet's counters grew by, tick by tick, over the last WINDOW."""

    at: datetime
    growths: tuple[Growth, ...] = ()
    pods: Mapping[str, PodReading] = field(default_factory=dict)

    @property
    def last(self) -> Growth | None:
        """The newest tick's growth; None at the first tick."""
        return self.growths[-1] if self.growths and self.growths[-1].until == self.at else None

    def latency_quantile_seconds(self, quantile: float) -> float | None:
        """A quantile (0 to 1) of the latency of jobs that finished within the window; None if none did."""
        return estimate_quantile(_sum_buckets(growth.counters.latency_buckets for growth in self.growths), quantile)


def advance(window: Window | None, readings: Mapping[str, CounterReading], now: datetime) -> Window:
    """The window with this tick's readings, keyed by pod name.

    A clock that was set back begins a new window.
    """
    latest = {name: PodReading(now, counters) for name, counters in readings.items()}
    if window is None or now < window.at:
        return Window(now, (), latest)
    oldest = now - WINDOW
    known = {name: reading for name, reading in window.pods.items() if reading.at > oldest}
    grown = [_grow(known[name].counters, counters) for name, counters in readings.items() if name in known]
    growth = Growth(since=window.at, until=now, counters=_sum(grown))
    kept = tuple(earlier for earlier in window.growths if earlier.until > oldest)
    return Window(now, (*kept, growth), {**known, **latest})


def estimate_quantile(buckets: Buckets, quantile: float) -> float | None:
    """A quantile of a cumulative histogram, linear inside a bucket; None if it is empty or has no infinite bucket.

    As Prometheus' histogram_quantile: the first bucket begins at 0, and what lies beyond the last finite bound is
    given as that bound. https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile
    """
    total = buckets.get(math.inf, 0.0)
    finite = sorted(bound for bound in buckets if math.isfinite(bound))
    if total <= 0 or not finite:
        return None
    rank = quantile * total
    lower_bound, below = 0.0, 0.0
    for bound in finite:
        count = buckets[bound]
        if count >= rank:
            share = (rank - below) / (count - below) if count > below else 1.0
            return lower_bound + (bound - lower_bound) * share
        lower_bound, below = bound, count
    return finite[-1]


def count_within(buckets: Buckets, seconds: float) -> float:
    """Jobs of a cumulative histogram that took at most ``seconds``, linear inside a bucket.

    Those beyond the last finite bound aren't among them unless ``seconds`` is infinite.
    """
    lower_bound, below = 0.0, 0.0
    for bound in sorted(buckets):
        if bound >= seconds:
            if math.isinf(bound):
                return buckets[bound] if math.isinf(seconds) else below
            return below + (buckets[bound] - below) * (seconds - lower_bound) / (bound - lower_bound)
        lower_bound, below = bound, buckets[bound]
    return below


def _grow(before: CounterReading, after: CounterReading) -> CounterReading:
    return CounterReading(
        submitted=_grow_counter(before.submitted, after.submitted),
        predicted_gpu_seconds=_grow_counter(before.predicted_gpu_seconds, after.predicted_gpu_seconds),
        bounded_gpu_seconds=_grow_counter(before.bounded_gpu_seconds, after.bounded_gpu_seconds),
        finished=_grow_counter(before.finished, after.finished),
        work_gpu_seconds=_grow_counter(before.work_gpu_seconds, after.work_gpu_seconds),
        latency_buckets=_grow_buckets(before.latency_buckets, after.latency_buckets),
    )


def _sum(parts: Sequence[CounterReading]) -> CounterReading:
    return CounterReading(
        submitted=_sum_known(part.submitted for part in parts),
        predicted_gpu_seconds=_sum_known(part.predicted_gpu_seconds for part in parts),
        # Gateways of the release before report no bounded work; during an update theirs counts as it is.
        bounded_gpu_seconds=_sum_known(
            part.predicted_gpu_seconds if part.bounded_gpu_seconds is None else part.bounded_gpu_seconds
            for part in parts
        ),
        finished=_sum_known(part.finished for part in parts),
        work_gpu_seconds=_sum_known(part.work_gpu_seconds for part in parts),
        latency_buckets=_sum_buckets(part.latency_buckets for part in parts),
    )


def _grow_counter(before: float | None, after: float | None) -> float | None:
    if after is None:
        return None
    if before is None:
        return 0.0
    return after if after < before else after - before


def _grow_buckets(before: Buckets, after: Buckets) -> Buckets:
    if not before or not after:
        return dict.fromkeys(after, 0.0)
    is_reset = after.get(math.inf, 0.0) < before.get(math.inf, 0.0)
    return dict(after) if is_reset else {bound: count - before.get(bound, 0.0) for bound, count in after.items()}


def _sum_known(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _sum_buckets(parts: Iterable[Buckets]) -> Buckets:
    """The sum over the bounds that all parts share: releases with different buckets may run side by side."""
    filled = [part for part in parts if part]
    if not filled:
        return {}
    shared = set(filled[0]).intersection(*filled[1:])
    return {bound: sum(part[bound] for part in filled) for bound in shared}
