"""``knative-concurrency``: Knative's pod autoscaler (KPA), pkg/autoscaler/scaling/autoscaler.go.

Its means are over requests waiting and running, as activator and queue-proxies report them. Fewer pods than
targetBurstCapacity (200) keep the activator in the path, so that going to zero needs no further grace.
"""

import math
from collections import deque
from dataclasses import dataclass
from typing import Final

from easel_operator.simulation.fleet import Fleet
from easel_operator.simulation.policies.interface import FIRST_TICK_SECONDS, next_multiple

TICK_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class KnativeSettings:
    """config-autoscaler's defaults, for a containerConcurrency of 1: a GPU generates one request at a time."""

    container_concurrency: float = 1.0
    target_utilisation: float = 0.7
    stable_window_seconds: float = 60.0
    panic_window_percent: float = 10.0
    panic_threshold: float = 2.0
    maximum_growth: float = 1000.0
    maximum_shrink: float = 2.0
    zero_grace_seconds: float = 0.0

    @property
    def target(self) -> float:
        """Requests per pod."""
        return self.container_concurrency * self.target_utilisation


class KnativePolicy:
    """Stable and panic mode."""

    def __init__(
        self, name: str, settings: KnativeSettings, *, initial_replicas: int, min_replicas: int, max_replicas: int
    ) -> None:
        self.name = name
        self.initial_replicas = initial_replicas
        self._settings = settings
        self._min, self._max = min_replicas, max_replicas
        self._areas: deque[tuple[float, float]] = deque()  # second, integral of concurrency
        self._panic_at: float | None = None
        self._panic_pods = 0
        self._zero_wanted_since: float | None = None
        self.next_tick_at = FIRST_TICK_SECONDS

    def tick(self, fleet: Fleet, now: float) -> int | None:
        """One decision."""
        self.next_tick_at = next_multiple(TICK_SECONDS, 0.0, now)
        stable, panic = self._measure(fleet, now)
        wanted = self._decide(fleet.ready, stable, panic, now)
        return self._apply_zero(max(self._min, min(wanted, self._max)), now)

    def _measure(self, fleet: Fleet, now: float) -> tuple[float, float]:
        """Mean concurrency of both windows, or of what has passed so far."""
        stable_seconds = self._settings.stable_window_seconds
        self._areas.append((now, fleet.measure_depth_area(now)))
        while len(self._areas) > 1 and self._areas[1][0] <= now - stable_seconds:
            self._areas.popleft()
        panic_seconds = stable_seconds * self._settings.panic_window_percent / 100
        ticks = max(1, math.ceil(panic_seconds / TICK_SECONDS))
        panic_begin = self._areas[max(0, len(self._areas) - 1 - ticks)]
        return _mean(self._areas[0], self._areas[-1]), _mean(panic_begin, self._areas[-1])

    def _decide(self, ready_pods: int, stable: float, panic: float, now: float) -> int:
        settings = self._settings
        ready = max(1, ready_pods)
        highest = math.ceil(settings.maximum_growth * ready)
        lowest = math.floor(ready / settings.maximum_shrink)
        for_panic = math.ceil(panic / settings.target)
        if for_panic / ready >= settings.panic_threshold:
            self._panic_at = now
        elif self._panic_at is not None and now - self._panic_at > settings.stable_window_seconds:
            self._panic_at, self._panic_pods = None, 0
        wanted = min(max(math.ceil(stable / settings.target), lowest), highest)
        if self._panic_at is None:
            return wanted
        self._panic_pods = max(self._panic_pods, wanted, min(max(for_panic, lowest), highest))
        return self._panic_pods

    def _apply_zero(self, wanted: int, now: float) -> int:
        if wanted > 0:
            self._zero_wanted_since = None
            return wanted
        if self._zero_wanted_since is None:
            self._zero_wanted_since = now
        return 0 if now - self._zero_wanted_since >= self._settings.zero_grace_seconds else 1


def _mean(begin: tuple[float, float], end: tuple[float, float]) -> float:
    """Of areas that are sums of many parts: what rounding leaves over isn't a request."""
    elapsed = end[0] - begin[0]
    return round(max(0.0, end[1] - begin[1]) / elapsed, 6) if elapsed > 0 else 0.0
