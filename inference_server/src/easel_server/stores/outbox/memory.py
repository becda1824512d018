"""The outbox of one process. Jobs put webhooks in; deliverers take them out."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from typing_extensions import override

from easel_server.generation.job import Job
from easel_server.stores.memory_wakeups import Clock, MemoryWakeups
from easel_server.stores.outbox.interface import (
    MAX_ATTEMPTS_PER_HOST,
    Delivery,
    FindBusyCustomers,
    WebhookOutbox,
    find_none,
)


@dataclass
class _PendingDelivery:
    delivery: Delivery
    host: str
    due_at: datetime
    is_attempted: bool = False  # until it is due again


class MemoryOutbox(WebhookOutbox):
    """Webhooks to be sent. What jobs enqueue wakes whoever waits, together with the jobs' own change."""

    def __init__(self, clock: Clock, wakeups: MemoryWakeups) -> None:
        self._clock = clock
        self._wakeups = wakeups
        self._pending: dict[str, _PendingDelivery] = {}

    def enqueue(self, job: Job, event: str) -> None:
        """Add a delivery if the job's client wants this event."""
        if job.webhook is None or event not in job.webhook.events:
            return
        delivery = Delivery(f"{job.id}.{event}", event, job.webhook.url, job, attempt=0)
        self._pending[delivery.id] = _PendingDelivery(delivery, urlsplit(job.webhook.url).netloc.lower(), self._clock())

    @override
    async def claim(
        self,
        *,
        lease_seconds: float,
        wait_seconds: float,
        find_busy_customers: FindBusyCustomers = find_none,
    ) -> Delivery | None:
        return await self._wakeups.wait_for(lambda: self._claim(lease_seconds, find_busy_customers()), wait_seconds)

    def _claim(self, lease_seconds: float, busy_customers: Collection[str]) -> Delivery | None:
        now = self._clock()
        attempts = Counter(
            pending.host for pending in self._pending.values() if pending.is_attempted and pending.due_at > now
        )
        due = (
            pending
            for pending in self._pending.values()
            if pending.due_at <= now
            and attempts[pending.host] < MAX_ATTEMPTS_PER_HOST
            and pending.delivery.job.owner not in busy_customers
        )
        first = min(due, key=lambda pending: pending.due_at, default=None)
        if first is None:
            return None
        first.delivery = replace(first.delivery, attempt=first.delivery.attempt + 1)
        first.due_at = now + timedelta(seconds=lease_seconds)
        first.is_attempted = True
        return first.delivery

    @override
    async def settle(self, delivery: Delivery) -> None:
        self._pending.pop(delivery.id, None)

    @override
    async def postpone(self, delivery: Delivery, delay_seconds: float) -> None:
        pending = self._pending.get(delivery.id)
        if pending is not None and pending.delivery.attempt == delivery.attempt:
            pending.due_at = self._clock() + timedelta(seconds=delay_seconds)
            pending.is_attempted = False
