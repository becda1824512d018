"""/usage: what each customer's jobs took, by day, for whoever bills them; from the ledger that the job store keeps.

It is beside the metrics, on a port that no Service leads to.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from typing import Any

from easel_contract import names
from easel_contract.gateway_config import QueueConfig
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from easel_server.gateway.refusals import refuse_private_path
from easel_server.stores.errors import StoreError
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


def add_usage_route(
    router: APIRouter, report: UsageReport | None, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> None:
    """Without a report it says where there is one."""

    async def usage(request: Request) -> JSONResponse:
        """Jobs, images and GPU-seconds of each customer by day of UTC: ?since=YYYY-MM-DD&until=YYYY-MM-DD."""
        if report is None:
            raise refuse_private_path(request.url.path)
        asked = request.query_params
        try:
            period = read_period(asked.get("since"), asked.get("until"), now().date())
        except ValueError as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        try:
            return JSONResponse(await report.build(period))
        except StoreError as error:
            return JSONResponse({"error": str(error)}, status_code=503, headers={"Retry-After": "5"})

    tags: list[str | Enum] = ["Probes"]
    answers: dict[int | str, dict[str, Any]] = {400: {"description": "A day that is none, or too many days."}}
    router.add_api_route(names.PATH_USAGE, usage, tags=tags, responses=answers, include_in_schema=report is not None)
