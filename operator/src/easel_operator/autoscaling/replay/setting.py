"""What is chosen by replay: a setting of the planner; the settings that are tried; and the service's terms."""

import itertools
from dataclasses import dataclass
from typing import Final

from easel_contract.resource import ScalingSpec

MARGINS: Final = (-0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0)
# Pairs of both times, in cold starts: each of the others is as good as one of these with another margin.
TIMES_COLD_STARTS: Final = ((0.2, 0.2), (0.2, 10.0), (0.67, 1.0), (2.0, 1.0))
# For load that comes and goes within minutes.
LONG_TIMES_COLD_STARTS: Final = (8.0, 1.0)
LONG_TIMES_MARGINS: Final = (0.0, 0.5, 1.0, 2.0)
# What comes while pods start may well be served beside the backlog, above all where late requests yield.
LOW_EXPECTED_ARRIVALS: Final = 0.35
LOW_EXPECTED_MARGINS: Final = (-0.25, 0.0, 0.25, 0.5, 0.75, 1.0)
MIN_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Setting:
    """How much headroom the arrivals get, and how long pods are kept without need of them.

    Times are in cold starts, which is what a pod costs that is needed again.
    """

    margin: float  # pods on top of the busy ones, where one is busy
    hold_cold_starts: float  # without need of it, before a pod is scaled down
    last_pod_cold_starts: float  # without any request, before the last one is
    # Of the measured rate, that the pods which are ordered for a backlog are to work off beside it: it is an upper
    # mean, and what comes orders its own pods.
    expected_arrivals: float = 0.7

    def find_hold_seconds(self, cold_start_seconds: float, scaling: ScalingSpec) -> float:
        """Time without need after which a pod is scaled down: as the user says, else by this setting."""
        by_user = scaling.scale_down_after_seconds
        return max(MIN_SECONDS, self.hold_cold_starts * cold_start_seconds) if by_user is None else float(by_user)

    def find_last_pod_seconds(self, cold_start_seconds: float, scaling: ScalingSpec) -> float:
        """Time without any request after which the last pod is scaled down, likewise."""
        by_user = scaling.scale_to_zero_after_seconds
        return max(MIN_SECONDS, self.last_pod_cold_starts * cold_start_seconds) if by_user is None else float(by_user)


# Of a service of which nothing is known. It is the long hold that a first hour of bursts is saved by.
FIRST_SETTING: Final = Setting(0.5, 3.0, 3.0)


def list_settings(scaling: ScalingSpec) -> tuple[Setting, ...]:
    """Those to try, the cheapest first. What the user sets isn't varied, nor the last pod's time where it stays."""
    is_hold_set = scaling.scale_down_after_seconds is not None
    is_last_fixed = scaling.scale_to_zero_after_seconds is not None or scaling.min_replicas > 0
    tried = [Setting(margin, *times) for margin, times in itertools.product(MARGINS, TIMES_COLD_STARTS)]
    tried += [Setting(margin, *LONG_TIMES_COLD_STARTS) for margin in LONG_TIMES_MARGINS]
    shortest = TIMES_COLD_STARTS[0]
    tried += [Setting(margin, *shortest, LOW_EXPECTED_ARRIVALS) for margin in LOW_EXPECTED_MARGINS]
    first = FIRST_SETTING
    return tuple(
        dict.fromkeys(
            Setting(
                each.margin,
                first.hold_cold_starts if is_hold_set else each.hold_cold_starts,
                first.last_pod_cold_starts if is_last_fixed else each.last_pod_cold_starts,
                each.expected_arrivals,
            )
            for each in tried
        )
    )
