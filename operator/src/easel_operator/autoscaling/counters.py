"""Growth of pods' counters over a sliding window: rates and latency quantiles that survive restarts of pods.

A pod that is first seen sets a baseline and adds nothing, so that a restart of the operator doesn't take years of
counting for one tick's. A counter that fell belongs to a restarted process: all of its new value is growth. A pod that
missed some scrapes adds what it did meanwhile at its next one.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

WINDOW: Final = timedelta(seconds=60)

Buckets = Mapping[float, float]  # upper bound in seconds (infinity included) → jobs that took at most that long


@dataclass(frozen=True, slots=True)
class CounterReading:
    """One pod's counters since its process began; None where the pod exports none."""

    submitted: float | None = None  # gateway
    finished: float | None = None  # worker: succeeded or failed
    latency_buckets: Buckets = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Growth:
    """What the fleet's counters grew by between two ticks; None where no pod could tell."""

    since: datetime
    until: datetime
    submitted: float | None
    finished: float | None
    latency_buckets: Buckets


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

    def arrivals_per_second(self) -> float | None:
        """Mean rate of submissions; None while no gateway tells."""
        if self.last is None or self.last.submitted is None:
            return None
        known = [growth for growth in self.growths if growth.submitted is not None]
        seconds = (self.at - self.growths[0].since).total_seconds()
        return sum(growth.submitted or 0.0 for growth in known) / seconds if seconds > 0 else None

    def latency_quantile_seconds(self, quantile: float) -> float | None:
        """A quantile (0 to 1) of the latency of jobs that finished within the window; None if none did."""
        return estimate_quantile(_sum_buckets(growth.latency_buckets for growth in self.growths), quantile)


def advance(window: Window | None, readings: Mapping[str, CounterReading], now: datetime) -> Window:
    """The window with this tick's readings, keyed by pod name."""
    latest = {name: PodReading(now, counters) for name, counters in readings.items()}
    if window is None:
        return Window(now, (), latest)
    grown = [
        (_grow(window.pods[name].counters, counters) if name in window.pods else _nothing(counters))
        for name, counters in readings.items()
    ]
    growth = Growth(
        since=window.at,
        until=now,
        submitted=_sum_known(counters.submitted for counters in grown),
        finished=_sum_known(counters.finished for counters in grown),
        latency_buckets=_sum_buckets(counters.latency_buckets for counters in grown),
    )
    oldest = now - WINDOW
    kept = tuple(earlier for earlier in window.growths if earlier.until > oldest)
    silent = {name: reading for name, reading in window.pods.items() if reading.at > oldest}
    return Window(now, (*kept, growth), {**silent, **latest})


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


def _grow(before: CounterReading, after: CounterReading) -> CounterReading:
    return CounterReading(
        submitted=_grow_counter(before.submitted, after.submitted),
        finished=_grow_counter(before.finished, after.finished),
        latency_buckets=_grow_buckets(before.latency_buckets, after.latency_buckets),
    )


def _nothing(counters: CounterReading) -> CounterReading:
    return _grow(counters, counters)


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
