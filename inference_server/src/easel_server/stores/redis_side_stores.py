"""What a service shares besides its jobs, on Redis: the webhooks' outbox, the result cache, facts and buckets."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from easel_server.stores.cache.interface import CachedImages
from easel_server.stores.jobs.redis_fields import to_delivery
from easel_server.stores.limits.interface import BucketState, Charge, RateDecision
from easel_server.stores.outbox.interface import MAX_ATTEMPTS_PER_HOST, Delivery
from easel_server.stores.redis.connection import RedisConnection
from easel_server.stores.redis.wakeups import wait_for

MICROSECONDS: Final = 1_000_000
MILLISECONDS: Final = 1_000


class RedisSideStores:
    """See ``interface``: WebhookOutbox, ResultCache, FactStore and RateLimiter."""

    def __init__(self, connection: RedisConnection, *, max_cache_bytes: int) -> None:
        self._connection = connection
        self._max_cache_bytes = max_cache_bytes

    async def claim_delivery(self, *, lease_seconds: float, wait_seconds: float) -> Delivery | None:
        """See WebhookOutbox."""

        async def claim_now() -> Delivery | None:
            reply = await self._connection.script(
                "claim_delivery", round(lease_seconds * MICROSECONDS), MAX_ATTEMPTS_PER_HOST
            )
            return to_delivery(*reply) if reply else None

        return await wait_for(self._connection, "outbox:bell", claim_now, wait_seconds)

    async def settle_delivery(self, delivery: Delivery) -> None:
        """See WebhookOutbox."""
        await self._connection.script("settle_delivery", delivery.id, MAX_ATTEMPTS_PER_HOST)

    async def postpone_delivery(self, delivery: Delivery, delay_seconds: float) -> None:
        """See WebhookOutbox."""
        delay_microseconds = round(delay_seconds * MICROSECONDS)
        await self._connection.script(
            "postpone_delivery", delivery.id, delivery.attempt, delay_microseconds, MAX_ATTEMPTS_PER_HOST
        )

    async def cache_get(self, key: str) -> CachedImages | None:
        """See ResultCache."""
        reply = await self._connection.script("cache_get", key)
        if not reply:
            return None
        age_microseconds, *images = reply
        return CachedImages(tuple(images), int(age_microseconds) / MICROSECONDS)

    async def cache_put(
        self, key: str, images: tuple[bytes, ...], *, ttl_seconds: float, age_seconds: float = 0.0
    ) -> None:
        """See ResultCache."""
        await self._connection.script(
            "cache_put",
            key,
            round(ttl_seconds * MILLISECONDS),
            round(age_seconds * MICROSECONDS),
            self._max_cache_bytes,
            CachedImages(images, age_seconds).size_bytes,
            *images,
        )

    async def get_fact(self, name: str) -> bytes | None:
        """See FactStore."""
        fact: bytes | None = await self._connection.command("GET", self._connection.key(f"fact:{name}"))
        return fact

    async def put_fact(self, name: str, value: bytes, *, ttl_seconds: float) -> None:
        """See FactStore."""
        key = self._connection.key(f"fact:{name}")
        await self._connection.command("SET", key, value, "PX", round(ttl_seconds * MILLISECONDS))

    async def take(self, charges: Sequence[Charge]) -> RateDecision:
        """See RateLimiter."""
        if not charges:
            return RateDecision(True, (), 0.0)
        arguments = [
            word for charge in charges for word in (charge.bucket, charge.amount, charge.per_minute, charge.burst)
        ]
        wait_milliseconds, *figures = await self._connection.script("take", *arguments)
        states = tuple(
            BucketState(charge, remaining, reset_milliseconds / MILLISECONDS)
            for charge, remaining, reset_milliseconds in zip(charges, figures[::2], figures[1::2], strict=True)
        )
        return RateDecision(wait_milliseconds == 0, states, wait_milliseconds / MILLISECONDS)

    async def refund(self, charges: Sequence[Charge]) -> None:
        """See RateLimiter."""
        await self.take([replace(charge, amount=-charge.amount) for charge in charges])
