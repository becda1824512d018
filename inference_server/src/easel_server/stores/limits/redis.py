"""The rate limits on Redis; ``lua/take.lua`` does what ``buckets.py`` does in memory."""

from collections.abc import Sequence
from dataclasses import replace

from typing_extensions import override

from easel_server.stores.limits.interface import BucketState, Charge, RateDecision, RateLimiter
from easel_server.stores.redis.connection import MILLISECONDS, RedisConnection


class RedisRateLimiter(RateLimiter):
    """Buckets that all gateways of a service share."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection

    @override
    async def take(self, charges: Sequence[Charge]) -> RateDecision:
        if not charges:
            return RateDecision(True, (), 0.0)
        arguments = [
            word for charge in charges for word in (charge.bucket, charge.amount, charge.per_minute, charge.burst)
        ]
        wait_ms, *figures = await self._connection.script("limits/take", *arguments)
        states = tuple(
            BucketState(charge, remaining, reset_ms / MILLISECONDS)
            for charge, remaining, reset_ms in zip(charges, figures[::2], figures[1::2], strict=True)
        )
        return RateDecision(wait_ms == 0, states, wait_ms / MILLISECONDS)

    @override
    async def refund(self, charges: Sequence[Charge]) -> None:
        await self.take([replace(charge, amount=-charge.amount) for charge in charges])
