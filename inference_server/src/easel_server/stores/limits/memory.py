"""The outbox, the result cache, the facts and the buckets of one process. No jobs live here."""

from collections.abc import Sequence
from dataclasses import replace

from easel_server.stores.jobs.redis_fields import to_microseconds
from easel_server.stores.limits.buckets import BucketLevel, decide_rate
from easel_server.stores.limits.interface import Charge, RateDecision
from easel_server.stores.outbox.memory import Clock


class MemoryRateLimiter:
    """See interface.RateLimiter."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._levels: dict[str, tuple[BucketLevel, int]] = {}  # and when they are full again, in milliseconds

    def take(self, charges: Sequence[Charge]) -> RateDecision:
        """Take all the charges, or none."""
        now = self._now_milliseconds()
        levels = [self._levels.get(charge.bucket, (BucketLevel(), 0))[0] for charge in charges]
        decision, changed = decide_rate(charges, levels, now)
        for state, level in zip(decision.buckets, changed, strict=True):
            self._levels[state.charge.bucket] = (level, now + round(state.reset_seconds * 1000))
        return decision

    def refund(self, charges: Sequence[Charge]) -> None:
        """Undo a take."""
        self.take([replace(charge, amount=-charge.amount) for charge in charges])

    def purge(self) -> None:
        """Forget buckets that are full: they are as if they had never been used."""
        now = self._now_milliseconds()
        self._levels = {bucket: kept for bucket, kept in self._levels.items() if kept[1] > now}

    def _now_milliseconds(self) -> int:
        return to_microseconds(self._clock()) // 1000
