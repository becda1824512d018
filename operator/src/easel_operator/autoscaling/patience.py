"""How long a pod is kept without need of it: what the user says, else by what its return would cost.

A pod that is given up and needed again costs a cold start, of GPU time and of waiting; so it is kept for a part of
that, and for longer while too many jobs are late (a ski-rental decision whose price is learned).
"""

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from easel_contract.resource import ScalingSpec

from easel_operator.autoscaling.cold_starts import ColdStarts
from easel_operator.autoscaling.lateness import LatenessBudget

KEPT_COLD_STARTS: Final = 0.3
MARGIN_EXPONENT: Final = 0.6  # by which the margin for lateness lengthens both
LEAST_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Patience:
    """Times without need after which a pod is given up, and without any request after which the last one is."""

    hold: timedelta
    zero: timedelta


def find_patience(cold_starts: ColdStarts, budget: LatenessBudget, settings: ScalingSpec) -> Patience:
    """The service's own settings, else shares of a cold start."""
    growth = math.exp(MARGIN_EXPONENT * budget.margin)
    kept = max(LEAST_SECONDS, KEPT_COLD_STARTS * growth * cold_starts.median_seconds)
    hold = settings.scale_down_after_seconds
    zero = settings.scale_to_zero_after_seconds
    return Patience(
        hold=timedelta(seconds=kept if hold is None else hold),
        zero=timedelta(seconds=kept if zero is None else zero),
    )
