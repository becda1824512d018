"""The outbox, the result cache, the facts and the buckets of one process. No jobs live here."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from easel_server.generation.job import Job
from easel_server.stores.outbox.interface import MAX_ATTEMPTS_PER_HOST, Delivery

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
