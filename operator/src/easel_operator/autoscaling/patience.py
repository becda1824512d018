"""How long a pod is kept without need of it: what the user says, else by what its return would cost.

A pod that is given up and needed again costs a cold start, of GPU time and of waiting; so it is kept for a part of
that, and for longer where that was too short (a ski-rental decision whose price is learned). Most pods are kept by the
head-room over the arrivals already, so only jobs that were late a short while ago lengthen their time: bursts come in
company. The last pod has no arrivals to be kept by: it is kept longest, and goes by the whole margin.
"""

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from easel_contract.resource import ScalingSpec

from easel_operator.autoscaling.cold_starts import ColdStarts
from easel_operator.autoscaling.lateness import LatenessBudget

KEPT_COLD_STARTS: Final = 0.2
RECENT_EXPONENT: Final = 2.0  # by which the margin of late lengthens it
LONGEST_COLD_STARTS: Final = 4.0
LAST_KEPT_COLD_STARTS: Final = 3.0
LAST_EXPONENT: Final = 0.6  # by which the whole margin lengthens that
LAST_LONGEST_COLD_STARTS: Final = 10.0
LEAST_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Patience:
    """Times without need after which a pod is given up, and without any request after which the last one is."""

    hold: timedelta
    zero: timedelta


def find_patience(cold_starts: ColdStarts, budget: LatenessBudget, settings: ScalingSpec) -> Patience:
    """The service's own settings, else shares of a cold start."""
    cold_start = cold_starts.median_seconds
    kept = min(KEPT_COLD_STARTS * math.exp(RECENT_EXPONENT * budget.recent), LONGEST_COLD_STARTS) * cold_start
    last = min(LAST_KEPT_COLD_STARTS * math.exp(LAST_EXPONENT * budget.margin), LAST_LONGEST_COLD_STARTS) * cold_start
    hold, zero = settings.scale_down_after_seconds, settings.scale_to_zero_after_seconds
    return Patience(
        hold=timedelta(seconds=max(LEAST_SECONDS, kept) if hold is None else hold),
        zero=timedelta(seconds=max(LEAST_SECONDS, last) if zero is None else zero),
    )
