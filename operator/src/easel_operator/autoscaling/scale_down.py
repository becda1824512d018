"""How long a pod is kept without need of it, and the window that keeps it: as the user says, else by its return's cost.

A pod that is scaled down and needed again costs a cold start, of GPU time and of waiting; so it is kept for a part of
that, and for longer where that was too short (a ski-rental decision whose price is learned). Most pods are kept by the
headroom over the arrivals already, so only jobs that were late a short while ago lengthen their time: bursts come in
company. The last pod has no arrivals to be kept by: it is kept longest, and goes by the whole headroom.
"""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from easel_contract.resource import ScalingSpec

from easel_operator.autoscaling.cold_starts import ColdStarts
from easel_operator.autoscaling.headroom import ErrorBudget

KEPT_COLD_STARTS: Final = 0.2
RECENT_EXPONENT: Final = 2.0  # by which the recent headroom lengthens it
MAX_COLD_STARTS: Final = 4.0
LAST_KEPT_COLD_STARTS: Final = 3.0
LAST_EXPONENT: Final = 0.6  # by which the whole headroom lengthens that
LAST_MAX_COLD_STARTS: Final = 10.0
MIN_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class ScaleDownDelay:
    """Times without need after which a pod is scaled down, and without any request after which the last one is."""

    pod: timedelta
    last_pod: timedelta


def find_scale_down_delay(cold_starts: ColdStarts, budget: ErrorBudget, scaling: ScalingSpec) -> ScaleDownDelay:
    """The service's own scaling, else shares of a cold start."""
    cold_start = cold_starts.median_seconds
    kept = min(KEPT_COLD_STARTS * math.exp(RECENT_EXPONENT * budget.recent), MAX_COLD_STARTS) * cold_start
    last = min(LAST_KEPT_COLD_STARTS * math.exp(LAST_EXPONENT * budget.headroom), LAST_MAX_COLD_STARTS) * cold_start
    set_pod, set_last = scaling.scale_down_after_seconds, scaling.scale_to_zero_after_seconds
    return ScaleDownDelay(
        pod=timedelta(seconds=max(MIN_SECONDS, kept) if set_pod is None else set_pod),
        last_pod=timedelta(seconds=max(MIN_SECONDS, last) if set_last is None else set_last),
    )


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A number of pods, and when it was last proposed."""

    replicas: int
    at: datetime


@dataclass(frozen=True, slots=True)
class StabilizationWindow:
    """The largest number proposed within a sliding time, so that a pod goes only when it was long unneeded.

    Recommendations in the order of their times. Only those larger than every later one still matter: one a pod count.
    """

    recommendations: tuple[Recommendation, ...] = ()

    def remember(self, replicas: int, now: datetime, duration: timedelta) -> "StabilizationWindow":
        """The window with this tick's proposal; what is ``duration`` old or older is forgotten."""
        kept = tuple(each for each in self.recommendations if each.replicas > replicas and now - each.at < duration)
        return StabilizationWindow((*kept, Recommendation(replicas, now)))

    def postpone(self, pause: timedelta) -> "StabilizationWindow":
        """The window as if its clock had stood still: time that nobody watched isn't time without need."""
        return StabilizationWindow(
            tuple(Recommendation(each.replicas, each.at + pause) for each in self.recommendations)
        )

    @property
    def replicas(self) -> int:
        """The largest number within it; 0 if nothing was ever proposed."""
        return self.recommendations[0].replicas if self.recommendations else 0
