"""Token buckets, kept as a level that drains. Pure; ``lua/take.lua`` is the same on the server.

A bucket is full of tokens when its level is 0 (https://en.wikipedia.org/wiki/Leaky_bucket#As_a_meter). Levels are
counted in thousandths times 60,000, of which ``per_minute`` drain in a millisecond: all arithmetic is in whole numbers,
so what is said of a wait is true to the millisecond.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from easel_server.stores.limits.interface import BucketState, Charge, RateDecision

MILLISECONDS_PER_MINUTE: Final = 60_000


@dataclass(frozen=True)
class BucketLevel:
    """What a bucket holds of what was taken lately."""

    level: int = 0
    at_milliseconds: int = 0

    def drained(self, charge: Charge, now_milliseconds: int) -> int:
        """The level now. A clock that was set back drains nothing, and blocks for no longer than the level takes."""
        return max(0, self.level - max(0, now_milliseconds - self.at_milliseconds) * charge.per_minute)


def decide_rate(
    charges: Sequence[Charge], levels: Sequence[BucketLevel], now_milliseconds: int
) -> tuple[RateDecision, tuple[BucketLevel, ...]]:
    """The decision, and the levels to store: with all charges taken, or with none. ``levels`` are in charges' order."""
    drained = [level.drained(charge, now_milliseconds) for charge, level in zip(charges, levels, strict=True)]
    waits = [_wait_milliseconds(charge, level) for charge, level in zip(charges, drained, strict=True)]
    wait = max(waits, default=0)
    if wait == 0:
        drained = [
            max(0, level + charge.amount * MILLISECONDS_PER_MINUTE)
            for charge, level in zip(charges, drained, strict=True)
        ]
    states = tuple(_describe(charge, level) for charge, level in zip(charges, drained, strict=True))
    stored = tuple(BucketLevel(level, now_milliseconds) for level in drained)
    return RateDecision(wait == 0, states, wait / 1000), stored


def _wait_milliseconds(charge: Charge, level: int) -> int:
    """Until the charge passes. One that is larger than its bucket passes a full one; a refund always does."""
    if charge.amount <= 0:
        return 0
    excess = level + (min(charge.amount, charge.burst) - charge.burst) * MILLISECONDS_PER_MINUTE
    return max(0, -(-excess // charge.per_minute))


def _describe(charge: Charge, level: int) -> BucketState:
    remaining = max(0, charge.burst * MILLISECONDS_PER_MINUTE - level) // MILLISECONDS_PER_MINUTE
    return BucketState(charge, remaining, -(-level // charge.per_minute) / 1000)
