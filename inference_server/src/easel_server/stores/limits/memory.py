"""The rate limits of one process."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from typing_extensions import override

from easel_server.stores.limits.buckets import BucketLevel, decide_rate
from easel_server.stores.limits.interface import Charge, RateDecision, RateLimiter
from easel_server.stores.memory_wakeups import Clock

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND: Final = timedelta(milliseconds=1)


class MemoryRateLimiter(RateLimiter):
    """Buckets by name."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._levels: dict[str, tuple[BucketLevel, int]] = {}  # and when they are full again, in milliseconds

    @override
    async def take(self, charges: Sequence[Charge]) -> RateDecision:
        now = self._now_milliseconds()
        levels = [self._levels.get(charge.bucket, (BucketLevel(), 0))[0] for charge in charges]
        decision, changed = decide_rate(charges, levels, now)
        for state, level in zip(decision.buckets, changed, strict=True):
            self._levels[state.charge.bucket] = (level, now + round(state.reset_seconds * 1000))
        return decision

    @override
    async def refund(self, charges: Sequence[Charge]) -> None:
        await self.take([replace(charge, amount=-charge.amount) for charge in charges])

    def purge(self) -> None:
        """Forget buckets that are full: they are as if they had never been used."""
        now = self._now_milliseconds()
        self._levels = {bucket: kept for bucket, kept in self._levels.items() if kept[1] > now}

    def _now_milliseconds(self) -> int:
        return (self._clock() - EPOCH) // MILLISECOND
