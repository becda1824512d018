"""How long a pod is kept without need of it, and the window that keeps it.

A pod that is scaled down and needed again costs a cold start, of GPU time and of waiting; so it is kept for a part of
that, or some of them: how many pay is found by replay (replay/), unless the user sets the time.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from easel_contract.resource import ScalingSpec

from easel_operator.autoscaling.cold_starts import ColdStarts
from easel_operator.autoscaling.replay.setting import Setting

LOADING_TIMEOUT: Final = timedelta(minutes=10)  # for so long, pods that all still load don't count as without need


@dataclass(frozen=True, slots=True)
class ScaleDownDelay:
    """Times without need after which a pod is scaled down, and without any request after which the last one is."""

    pod: timedelta
    last_pod: timedelta


def find_scale_down_delay(cold_starts: ColdStarts, setting: Setting, scaling: ScalingSpec) -> ScaleDownDelay:
    """The service's own scaling, else the setting's at the measured cold start."""
    cold_start = cold_starts.median_seconds
    return ScaleDownDelay(
        pod=timedelta(seconds=setting.find_hold_seconds(cold_start, scaling)),
        last_pod=timedelta(seconds=setting.find_last_pod_seconds(cold_start, scaling)),
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
