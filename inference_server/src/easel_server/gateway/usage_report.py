"""The report of usage: what each customer's jobs took, by day, from the ledger that the job store keeps."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from easel_contract.gateway_config import QueueConfig

from easel_server.stores.usage.interface import USAGE_DAYS, UsageLedger


@dataclass(frozen=True)
class Period:
    """Days of UTC, both among them."""

    since: date
    until: date


def read_period(since: str | None, until: str | None, today: date) -> Period:
    """What was asked for: until today, and from the first of that month, unless it says otherwise.

    Raises ValueError, with what is allowed.
    """
    last = _read_day("until", until) or today
    first = _read_day("since", since) or last.replace(day=1)
    if first > last:
        raise ValueError(f"since={first} is after until={last}: give the earlier day as since")
    if (last - first).days >= USAGE_DAYS:
        raise ValueError(
            f"since={first} and until={last} are {(last - first).days + 1} days; at most {USAGE_DAYS} are allowed, "
            "which is how long usage is kept"
        )
    return Period(first, last)


def _read_day(name: str, text: str | None) -> date | None:
    if not text:
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).date()
    except ValueError:
        raise ValueError(f"{name}={text[:40]!r} is no day; give it as YYYY-MM-DD, such as 2026-11-27") from None


class UsageReport:
    """Of one service."""

    def __init__(self, ledger: UsageLedger, namespace: str, service: str, terms: Callable[[], QueueConfig]) -> None:
        """``terms`` has the price as it is now."""
        self._ledger = ledger
        self._namespace = namespace
        self._service = service
        self._terms = terms

    async def build(self, period: Period) -> dict[str, Any]:
        """As it is sent: a row a customer and day. Raises StoreUnavailableError."""
        terms, rows = self._terms(), []
        for number in range((period.until - period.since).days + 1):
            day = period.since + timedelta(days=number)
            rows += [
                {
                    "day": day.isoformat(),
                    "customer": each.customer,
                    "jobs": each.jobs,
                    "cached_jobs": each.cached_jobs,
                    "images": each.images,
                    "gpu_seconds": each.gpu_seconds,
                }
                for each in await self._ledger.read(day)
            ]
        return {
            "service": self._service,
            "namespace": self._namespace,
            "since": period.since.isoformat(),
            "until": period.until.isoformat(),
            "currency": terms.currency,
            "price_per_gpu_hour": terms.price_per_gpu_hour,
            "days": rows,
        }
