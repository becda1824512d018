"""The outbox, the result cache, the facts and the buckets of one process. No jobs live here."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from easel_server.broker.interface import MAX_ATTEMPTS_PER_HOST, CachedImages, Charge, Delivery, RateDecision
from easel_server.broker.rate import BucketLevel, decide_rate
from easel_server.broker.redis_fields import to_microseconds
from easel_server.job import Job

Clock = Callable[[], datetime]


@dataclass
class _PendingDelivery:
    delivery: Delivery
    host: str
    due_at: datetime
    is_attempted: bool = False  # until it is due again


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
        self._pending[delivery.id] = _PendingDelivery(delivery, urlsplit(job.webhook.url).netloc.lower(), self._clock())
        return True

    def claim(self, lease_seconds: float) -> Delivery | None:
        """The delivery that has been due longest."""
        now = self._clock()
        attempts = Counter(
            pending.host for pending in self._pending.values() if pending.is_attempted and pending.due_at > now
        )
        due = (
            pending
            for pending in self._pending.values()
            if pending.due_at <= now and attempts[pending.host] < MAX_ATTEMPTS_PER_HOST
        )
        first = min(due, key=lambda pending: pending.due_at, default=None)
        if first is None:
            return None
        first.delivery = replace(first.delivery, attempt=first.delivery.attempt + 1)
        first.due_at = now + timedelta(seconds=lease_seconds)
        first.is_attempted = True
        return first.delivery

    def settle(self, delivery: Delivery) -> None:
        """Forget it."""
        self._pending.pop(delivery.id, None)

    def postpone(self, delivery: Delivery, delay_seconds: float) -> None:
        """Make it due later, unless another deliverer has taken it since."""
        pending = self._pending.get(delivery.id)
        if pending is not None and pending.delivery.attempt == delivery.attempt:
            pending.due_at = self._clock() + timedelta(seconds=delay_seconds)
            pending.is_attempted = False


@dataclass(frozen=True)
class _CachedEntry:
    images: tuple[bytes, ...]
    drawn_at: datetime
    expires_at: datetime
    size_bytes: int


class MemoryResultCache:
    """See interface.ResultCache."""

    def __init__(self, clock: Clock, max_bytes: int) -> None:
        self._clock = clock
        self._max_bytes = max_bytes
        self._entries: OrderedDict[str, _CachedEntry] = OrderedDict()  # the least recently used first
        self._bytes = 0

    def get(self, key: str) -> CachedImages | None:
        """The images, or None."""
        entry = self._entries.get(key)
        now = self._clock()
        if entry is None:
            return None
        if entry.expires_at <= now:
            self._remove(key)
            return None
        self._entries.move_to_end(key)
        return CachedImages(entry.images, max(0.0, (now - entry.drawn_at).total_seconds()))

    def put(self, key: str, images: tuple[bytes, ...], ttl_seconds: float, age_seconds: float) -> None:
        """Keep the images; the least recently used entries make room."""
        if key in self._entries:
            self._remove(key)
        now = self._clock()
        entry = _CachedEntry(
            images,
            drawn_at=now - timedelta(seconds=age_seconds),
            expires_at=now + timedelta(seconds=ttl_seconds),
            size_bytes=CachedImages(images, age_seconds).size_bytes,
        )
        if entry.size_bytes > self._max_bytes:
            return
        self._entries[key] = entry
        self._bytes += entry.size_bytes
        while self._bytes > self._max_bytes:
            self._remove(next(iter(self._entries)))

    def purge(self) -> None:
        """Drop what has expired."""
        now = self._clock()
        for key in [key for key, entry in self._entries.items() if entry.expires_at <= now]:
            self._remove(key)

    def _remove(self, key: str) -> None:
        self._bytes -= self._entries.pop(key).size_bytes


class MemoryFacts:
    """See interface.FactStore."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._facts: dict[str, tuple[bytes, datetime]] = {}

    def get(self, name: str) -> bytes | None:
        """The fact, or None."""
        value, expires_at = self._facts.get(name, (None, self._clock()))
        return value if expires_at > self._clock() else None

    def put(self, name: str, value: bytes, ttl_seconds: float) -> None:
        """Tell a fact."""
        self._facts[name] = (value, self._clock() + timedelta(seconds=ttl_seconds))


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

    def give_back(self, charges: Sequence[Charge]) -> None:
        """Undo a take."""
        self.take([replace(charge, amount=-charge.amount) for charge in charges])

    def purge(self) -> None:
        """Forget buckets that are full: they are as if they had never been used."""
        now = self._now_milliseconds()
        self._levels = {bucket: kept for bucket, kept in self._levels.items() if kept[1] > now}

    def _now_milliseconds(self) -> int:
        return to_microseconds(self._clock()) // 1000
