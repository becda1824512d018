"""The ledger of usage of one process, lost at its exit; ``lua/ledger.lua`` does the same in Redis."""

from dataclasses import replace
from datetime import UTC, date, timedelta

from typing_extensions import override

from easel_server.stores.memory_wakeups import Clock
from easel_server.stores.usage.interface import MAX_CUSTOMERS, OTHERS, USAGE_DAYS, CustomerUsage, UsageLedger


class MemoryUsage(UsageLedger):
    """Customers by day."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._days: dict[date, dict[str, CustomerUsage]] = {}

    def add(self, customer: str, *, jobs: int, cached_jobs: int, images: int, gpu_microseconds: int) -> None:
        """Add a job that has just ended."""
        today = self._today()
        if today not in self._days:
            self._days = {day: usage for day, usage in self._days.items() if day > today - timedelta(days=USAGE_DAYS)}
        customers = self._days.setdefault(today, {})
        if customer not in customers and len(customers) >= MAX_CUSTOMERS:
            customer = OTHERS
        known = customers.get(customer, CustomerUsage(customer))
        customers[customer] = replace(
            known,
            jobs=known.jobs + jobs,
            cached_jobs=known.cached_jobs + cached_jobs,
            images=known.images + images,
            gpu_microseconds=known.gpu_microseconds + gpu_microseconds,
        )

    @override
    async def read(self, day: date) -> tuple[CustomerUsage, ...]:
        if day <= self._today() - timedelta(days=USAGE_DAYS):
            return ()
        return tuple(sorted(self._days.get(day, {}).values(), key=lambda each: each.customer))

    def _today(self) -> date:
        return self._clock().astimezone(UTC).date()
