"""Which setting to use, by what the shadow fleets did with the service's own arrivals.

The cheapest that keeps the error budget; but where a late request less would cost more than a stated price, the one
that is cheapest with that price on each late request.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from easel_operator.autoscaling.headroom import LATE_BUDGET
from easel_operator.autoscaling.replay.setting import FIRST_SETTING, Setting

USED_BUDGET: Final = 0.9  # aim below the limit by as much as tomorrow differs from yesterday
AIM: Final = USED_BUDGET * LATE_BUDGET
DEBT_GAIN: Final = 2.0
BUDGET_RANGE: Final = (0.5, 1.6)  # of the budget aimed at, that the debt of real lateness may make of it
MIN_GAIN: Final = 0.03  # for which another setting is taken


@dataclass(frozen=True, slots=True)
class Tally:
    """What one shadow fleet did, in forgetful sums."""

    jobs: float
    late: float
    gpu_seconds: float

    @property
    def late_share(self) -> float:
        """0 to 1."""
        return self.late / self.jobs if self.jobs > 0 else 0.0

    def keeps(self, budget: float) -> bool:
        """Whether no more than this share was late."""
        return self.late <= budget * self.jobs

    def cost(self, price_seconds: float) -> float:
        """GPU-seconds, with a price on each late job."""
        return self.gpu_seconds + price_seconds * self.late


class Basis(StrEnum):
    """Why a setting is used."""

    FIRST = "First"  # little was seen yet
    RECALLED = "Recalled"  # the one of before a restart, until enough was seen anew
    BUDGET = "Budget"  # the cheapest that keeps the error budget
    PRICE = "Price"  # late requests less would cost more than they may


@dataclass(frozen=True, slots=True)
class Choice:
    """The setting in use, and why."""

    setting: Setting = FIRST_SETTING
    basis: Basis = Basis.FIRST
    settings: int = 0  # that were tried
    seen_seconds: float = 0.0  # of arrivals behind it
    summed_seconds: float = 1.0  # likewise, as they fade in the sums
    tally: Tally | None = None  # of the setting
    budget: float = AIM  # the share of late jobs that was aimed at
    price_seconds: float = 0.0  # GPU-seconds that a late request less may cost
    keeping: Tally | None = None  # of the cheapest setting that keeps the budget; None: no setting does

    @property
    def mean_pods(self) -> float:
        """That the setting had over the time behind it; 0 until anything was chosen."""
        return 0.0 if self.tally is None else self.tally.gpu_seconds / self.summed_seconds


def find_budget(debt_jobs: float, jobs: float) -> float:
    """The share of late jobs to aim at, where ``debt_jobs`` more than planned were late in fact, of ``jobs``."""
    if jobs <= 0:
        return AIM
    low, high = BUDGET_RANGE
    return min(max(AIM - DEBT_GAIN * debt_jobs / jobs, low * AIM), high * AIM)


def find_cheapest(tallies: Sequence[Tally], budget: float) -> int | None:
    """The cheapest that keeps the budget; None if none does."""
    keeping = (index for index, tally in enumerate(tallies) if tally.keeps(budget))
    return min(keeping, key=lambda index: tallies[index].gpu_seconds, default=None)


def choose(tallies: Sequence[Tally], present: int | None, budget: float, price_seconds: float) -> int:
    """The index of the best. The present one stays if the best is hardly better."""
    by_price = min(range(len(tallies)), key=lambda index: tallies[index].cost(price_seconds))
    cheapest = find_cheapest(tallies, budget)
    if cheapest is None or tallies[by_price].gpu_seconds < tallies[cheapest].gpu_seconds:
        best, price = by_price, price_seconds
    else:
        best, price = cheapest, 0.0
    if present is None or (tallies[best].keeps(budget) and not tallies[present].keeps(budget)):
        return best
    is_hardly_better = tallies[present].cost(price) <= (1.0 + MIN_GAIN) * tallies[best].cost(price)
    return present if is_hardly_better else best
