"""``ray-serve``: Ray Serve's replica autoscaling, python/ray/serve/autoscaling_policy.py, with its defaults.

It wants the mean of ongoing requests over the look-back divided by the target per replica, once it has wanted more
(or fewer) for the whole of the delay. From zero it wakes one replica at once; to zero it goes from one only.
"""

import math
from collections import deque
from dataclasses import dataclass
from typing import Final

from easel_operator.simulation.fleet import Fleet
from easel_operator.simulation.policies.interface import FIRST_TICK_SECONDS, next_multiple

TICK_SECONDS: Final = 1.0  # its control loop's is 0.1 s; its delays are tens of seconds


@dataclass(frozen=True, slots=True)
class RaySettings:
    """ray.serve.config.AutoscalingConfig."""

    target_ongoing_requests: float = 2.0
    look_back_seconds: float = 30.0
    metrics_interval_seconds: float = 10.0  # the handles push what they measured this often
    upscale_delay_seconds: float = 30.0
    downscale_delay_seconds: float = 600.0


class RayServePolicy:
    """Counts for how long it has wanted to move in one direction."""

    def __init__(
        self, name: str, settings: RaySettings, *, initial_replicas: int, min_replicas: int, max_replicas: int
    ) -> None:
        self.name = name
        self.initial_replicas = initial_replicas
        self._settings = settings
        self._min, self._max = min_replicas, max_replicas
        self._areas: deque[tuple[float, float]] = deque([(0.0, 0.0)])
        self._ongoing = 0.0
        self._up_since: float | None = None
        self._down_since: float | None = None
        self._push_at = FIRST_TICK_SECONDS
        self.next_tick_at = FIRST_TICK_SECONDS

    def tick(self, fleet: Fleet, now: float) -> int | None:
        """One decision."""
        self.next_tick_at = next_multiple(TICK_SECONDS, 0.0, now)
        if now >= self._push_at:
            self._push_at = next_multiple(self._settings.metrics_interval_seconds, 0.0, now)
            self._receive(fleet.measure_depth_area(now), now)
        current = fleet.replicas
        if current == 0:
            return max(1, self._min) if fleet.depth > 0 else self._min
        wanted = math.ceil(self._ongoing / self._settings.target_ongoing_requests)
        return self._delay(max(self._min, min(wanted, self._max)), current, now)

    def _receive(self, area: float, now: float) -> None:
        self._areas.append((now, area))
        while len(self._areas) > 2 and self._areas[1][0] <= now - self._settings.look_back_seconds:
            self._areas.popleft()
        begin_at, begin_area = self._areas[0]
        if now > begin_at:
            self._ongoing = round(max(0.0, area - begin_area) / (now - begin_at), 6)

    def _delay(self, wanted: int, current: int, now: float) -> int | None:
        if wanted > current:
            self._down_since = None
            self._up_since = now if self._up_since is None else self._up_since
            if now - self._up_since >= self._settings.upscale_delay_seconds:
                self._up_since = None
                return wanted
        elif wanted < current:
            self._up_since = None
            self._down_since = now if self._down_since is None else self._down_since
            if now - self._down_since >= self._settings.downscale_delay_seconds:
                self._down_since = None
                return wanted if current == 1 else max(1, wanted)
        else:
            self._up_since = self._down_since = None
        return None
