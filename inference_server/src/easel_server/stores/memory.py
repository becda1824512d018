"""The broker of a single process (role ``all``): the same promises as Redis', kept in dictionaries, lost at exit.

Every method runs without awaiting between reading and writing, which makes it atomic on one event loop.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, TypeVar

from easel_contract.server_config import Priority

from easel_server.generation.cost import CostSums, Measurement
from easel_server.generation.job import Job, JobState
from easel_server.stores.cache.interface import CachedImages
from easel_server.stores.cache.memory import MemoryResultCache
from easel_server.stores.facts.memory import MemoryFacts
from easel_server.stores.jobs.interface import (
    BrokerSettings,
    Claim,
    Outcome,
    QueueDepth,
    QueuePosition,
    ReapReport,
    Submission,
    Verdict,
)
from easel_server.stores.jobs.memory import MemoryJobs
from easel_server.stores.limits.interface import Charge, RateDecision
from easel_server.stores.limits.memory import MemoryRateLimiter
from easel_server.stores.outbox.interface import Delivery
from easel_server.stores.outbox.memory import Clock, MemoryOutbox

LOOK_AGAIN_SECONDS: Final = 1.0  # a bound on sleeps for what only the clock makes due
T = TypeVar("T")


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


class _Bell:
    """Wakes everybody who sleeps on it."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), min(seconds, LOOK_AGAIN_SECONDS))


class MemoryBroker:
    """See ``interface.Broker``."""

    def __init__(self, settings: BrokerSettings, clock: Clock = utc_now) -> None:
        self._changed = _Bell()
        self._outbox = MemoryOutbox(clock)
        self._jobs = MemoryJobs(settings, clock, enqueue_delivery=self._outbox.enqueue, ring=self._changed.ring)
        self._cache = MemoryResultCache(clock, settings.max_cache_bytes)
        self._facts = MemoryFacts(clock)
        self._rate_limiter = MemoryRateLimiter(clock)

    # As clients see jobs

    async def submit(
        self,
        job: Job,
        *,
        answer: tuple[bytes, ...] | None = None,
        inputs: Mapping[str, bytes] | None = None,
        flight_key: str | None = None,
    ) -> Submission:
        """See JobStore."""
        return self._jobs.submit(job, answer, inputs or {}, flight_key)

    async def get(self, job_id: str) -> Job | None:
        """See JobStore."""
        record = self._jobs.find(job_id)
        return record.job if record else None

    async def images(self, job_id: str) -> tuple[bytes, ...]:
        """See JobStore."""
        record = self._jobs.find(job_id)
        return record.images if record else ()

    async def cancel(self, job_id: str) -> Job | None:
        """See JobStore."""
        return self._jobs.cancel(job_id)

    async def wait(self, job_id: str, timeout_seconds: float) -> Job | None:
        """See JobStore."""

        def is_unknown_or_final() -> bool:
            record = self._jobs.find(job_id)
            return record is None or record.job.state.is_final

        await self._wait_for(lambda: is_unknown_or_final() or None, timeout_seconds)
        return await self.get(job_id)

    async def watch(self, job_id: str) -> AsyncGenerator[Job]:
        """See JobStore."""
        seen: Job | None = None
        while True:
            job = await self.get(job_id)
            if job is None:
                return
            if job != seen:
                yield job
                seen = job
                continue  # it may have changed meanwhile
            if job.state.is_final:
                return
            await self._changed.sleep(LOOK_AGAIN_SECONDS)

    async def previews(self, job_id: str) -> tuple[bytes, ...]:
        """See JobStore."""
        record = self._jobs.find(job_id)
        if record is None:
            return ()
        return record.run.previews if record.run is not None else record.previews

    async def position(self, job_id: str) -> QueuePosition | None:
        """See JobStore."""
        record = self._jobs.find(job_id)
        if record is None or record.job.state is not JobState.WAITING:
            return None
        return self._jobs.position(record)

    async def outlook(self, owner: str, priority: Priority, weight: int) -> QueuePosition:
        """See JobStore."""
        return self._jobs.outlook(owner, priority, weight)

    # As workers see jobs

    async def claim(
        self, worker: str, *, lease_seconds: float, wait_seconds: float, max_jobs: int = 1, max_images: int = 1
    ) -> tuple[Claim, ...]:
        """See JobQueue."""
        claims = await self._wait_for(
            lambda: self._jobs.claim(worker, lease_seconds, max_jobs, max_images) or None, wait_seconds
        )
        return claims or ()

    async def heartbeat(self, claim: Claim, steps_done: int, *, previews: Sequence[bytes] = ()) -> Verdict:
        """See JobQueue."""
        return self._jobs.heartbeat(claim, steps_done, tuple(previews))

    async def finish(self, claim: Claim, outcome: Outcome, measured: Measurement | None = None) -> bool:
        """See JobQueue."""
        return self._jobs.finish(claim, outcome, measured)

    async def release(self, claim: Claim) -> bool:
        """See JobQueue."""
        return self._jobs.release(claim)

    async def reap(self) -> ReapReport:
        """See Reapable. Also forgets expired results."""
        self._cache.purge()
        self._rate_limiter.purge()
        return self._jobs.reap()

    async def depth(self) -> QueueDepth:
        """See JobQueue."""
        return self._jobs.depth()

    async def cost_sums(self) -> CostSums:
        """See JobQueue."""
        return self._jobs.cost_sums

    # Webhooks, cache, facts, buckets

    async def claim_delivery(self, *, lease_seconds: float, wait_seconds: float) -> Delivery | None:
        """See WebhookOutbox."""
        return await self._wait_for(lambda: self._outbox.claim(lease_seconds), wait_seconds)

    async def settle_delivery(self, delivery: Delivery) -> None:
        """See WebhookOutbox."""
        self._outbox.settle(delivery)

    async def postpone_delivery(self, delivery: Delivery, delay_seconds: float) -> None:
        """See WebhookOutbox."""
        self._outbox.postpone(delivery, delay_seconds)

    async def cache_get(self, key: str) -> CachedImages | None:
        """See ResultCache."""
        return self._cache.get(key)

    async def cache_put(
        self, key: str, images: tuple[bytes, ...], *, ttl_seconds: float, age_seconds: float = 0.0
    ) -> None:
        """See ResultCache."""
        self._cache.put(key, images, ttl_seconds, age_seconds)

    async def get_fact(self, name: str) -> bytes | None:
        """See FactStore."""
        return self._facts.get(name)

    async def put_fact(self, name: str, value: bytes, *, ttl_seconds: float) -> None:
        """See FactStore."""
        self._facts.put(name, value, ttl_seconds)

    async def take(self, charges: Sequence[Charge]) -> RateDecision:
        """See RateLimiter."""
        return self._rate_limiter.take(charges)

    async def refund(self, charges: Sequence[Charge]) -> None:
        """See RateLimiter."""
        self._rate_limiter.refund(charges)

    async def ping(self) -> None:
        """See Broker."""

    async def close(self) -> None:
        """See Broker."""

    async def _wait_for(self, attempt: Callable[[], T | None], wait_seconds: float) -> T | None:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + wait_seconds
        while True:
            found = attempt()
            left_seconds = give_up_at - loop.time()
            if found is not None or left_seconds <= 0:
                return found
            await self._changed.sleep(left_seconds)
