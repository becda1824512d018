"""The outbox, the result cache and the rate limiter of one process. No jobs live here."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from easel_contract.server_config import RateLimitConfig

from easel_server.broker.interface import Delivery, RateDecision
from easel_server.broker.rate import decide_rate
from easel_server.broker.redis_fields import to_microseconds
from easel_server.job import Job

Clock = Callable[[], datetime]

MAX_CACHE_BYTES: Final = 256 << 20  # Redis has its own maxmemory; here the oldest entries go


@dataclass
class _PendingDelivery:
    delivery: Delivery
    due_at: datetime


class MemoryOutbox:
    """Webhooks to be sent."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pending: dict[str, _PendingDelivery] = {}

    def enqueue(self, job: Job, event: str) -> bool:
        """Add a delivery if the job's client wants this event; whether it does."""
        if job.webhook is None or event not in job.webhook.events:
            return False
        delivery = Delivery(f"{job.id}.{event}", event, job.webhook.url, job, attempt=0)
        self._pending[delivery.id] = _PendingDelivery(delivery, self._clock())
        return True

    def claim(self, lease_seconds: float) -> Delivery | None:
        """The delivery that has been due longest."""
        now = self._clock()
        pending = min(self._pending.values(), key=lambda entry: entry.due_at, default=None)
        if pending is None or pending.due_at > now:
            return None
        pending.delivery = replace(pending.delivery, attempt=pending.delivery.attempt + 1)
        pending.due_at = now + timedelta(seconds=lease_seconds)
        return pending.delivery

    def settle(self, delivery: Delivery) -> None:
        """Forget it."""
        self._pending.pop(delivery.id, None)

    def postpone(self, delivery: Delivery, delay_seconds: float) -> None:
        """Make it due later, unless another deliverer has taken it since."""
        pending = self._pending.get(delivery.id)
        if pending is not None and pending.delivery.attempt == delivery.attempt:
            pending.due_at = self._clock() + timedelta(seconds=delay_seconds)


class MemoryResultCache:
    """See interface.ResultCache."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: OrderedDict[str, tuple[tuple[bytes, ...], datetime]] = OrderedDict()
        self._bytes = 0

    def get(self, key: str) -> tuple[bytes, ...] | None:
        """The images, or None."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        images, expires_at = entry
        if expires_at <= self._clock():
            self._remove(key)
            return None
        return images

    def put(self, key: str, images: tuple[bytes, ...], ttl_seconds: float) -> None:
        """Keep the images; the oldest entries make room."""
        if key in self._entries:
            self._remove(key)
        self._entries[key] = (images, self._clock() + timedelta(seconds=ttl_seconds))
        self._bytes += sum(map(len, images))
        while self._bytes > MAX_CACHE_BYTES:
            self._remove(next(iter(self._entries)))

    def purge(self) -> None:
        """Drop what has expired."""
        now = self._clock()
        for key in [key for key, (_, expires_at) in self._entries.items() if expires_at <= now]:
            self._remove(key)

    def _remove(self, key: str) -> None:
        images, _ = self._entries.pop(key)
        self._bytes -= sum(map(len, images))


class MemoryRateLimiter:
    """See interface.RateLimiter."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._arrivals: dict[str, int] = {}

    def take(self, owner: str, rate: RateLimitConfig) -> RateDecision:
        """Take one request out of the owner's bucket."""
        now = to_microseconds(self._clock())
        decision, self._arrivals[owner] = decide_rate(self._arrivals.get(owner, 0), now, rate)
        return decision
