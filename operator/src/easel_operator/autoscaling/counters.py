"""Growth of pods' counters over a sliding window: rates and latency quantiles that survive restarts of pods."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

WINDOW: Final = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class CounterReading:
    """One pod's counters since its process began; None where the pod exports none."""

    submitted: float | None = None  # gateway
    finished: float | None = None  # worker: succeeded or failed
    latency_buckets: Mapping[float, float] = field(default_factory=dict)  # upper bound in seconds → jobs at most that


@dataclass(frozen=True, slots=True)
class Window:
    """What the fleet's counters grew by, tick by tick, over the last WINDOW."""


def advance(window: Window | None, readings: Mapping[str, CounterReading], now: datetime) -> Window:
    """The window with this tick's readings, keyed by pod."""
    raise NotImplementedError
