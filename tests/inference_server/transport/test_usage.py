"""The report of usage as whoever bills customers asks for it."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import pytest
from easel_contract.gateway_config import QueueConfig
from easel_server.api.app import build_probe_app
from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.jobs.interface import JobBounds
from easel_server.stores.opening import open_memory_stores
from easel_server.stores.usage.interface import USAGE_DAYS, CustomerUsage, UsageLedger
from easel_server.transport.probes import Readiness
from easel_server.transport.usage import Period, UsageReport, read_period
from httpx2 import ASGITransport, AsyncClient, Response

from tests.support.jobs import build_job
from tests.support.stored_images import succeed

TODAY = date(2026, 11, 27)


class AbsentLedger:
    async def read(self, day: date) -> tuple[CustomerUsage, ...]:
        raise StoreUnavailableError("redis:6379", "HGETALL", "ConnectionError", "wait")


async def ask(ledger: UsageLedger, path: str, terms: Callable[[], QueueConfig] = QueueConfig) -> Response:
    async def render(_is_labelled: bool) -> bytes:
        return b""

    stores = open_memory_stores(JobBounds())
    app = build_probe_app(Readiness(stores.ping), render, UsageReport(ledger, "studio", "painter", terms))
    async with AsyncClient(transport=ASGITransport(app=app), base_url="http://gateway") as client:
        return await client.get(path)


async def test_each_day_has_a_row_for_each_customer_and_the_price_as_it_is_now() -> None:
    now = datetime(2026, 11, 26, 12, tzinfo=UTC)
    stores = open_memory_stores(JobBounds(), clock=lambda: now)
    for day, owner in enumerate(("ann", "bob")):
        await stores.jobs.submit(build_job(f"job-{day}", owner=owner, images=2))
        (claim,) = await stores.jobs.claim("w", lease_seconds=60, wait_seconds=0)
        await succeed(stores.jobs, claim, (b"1", b"2"), gpu_seconds=7.5)
        await stores.jobs.submit(build_job(f"again-{day}", owner=owner), answer=(b"1",))
        now += timedelta(days=1)
    terms = QueueConfig(price_per_gpu_hour=2.5, currency="EUR")
    answer = await ask(stores.usage, "/usage?since=2026-11-01&until=2026-11-27", lambda: terms)
    assert answer.json() == {
        "service": "painter",
        "namespace": "studio",
        "since": "2026-11-01",
        "until": "2026-11-27",
        "currency": "EUR",
        "price_per_gpu_hour": 2.5,
        "days": [
            {"day": "2026-11-26", "customer": "ann", "jobs": 2, "cached_jobs": 1, "images": 3, "gpu_seconds": 7.5},
            {"day": "2026-11-27", "customer": "bob", "jobs": 2, "cached_jobs": 1, "images": 3, "gpu_seconds": 7.5},
        ],
    }


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        (None, None, Period(date(2026, 11, 1), TODAY)),
        (None, "2026-10-31", Period(date(2026, 10, 1), date(2026, 10, 31))),
        ("2026-11-27", None, Period(TODAY, TODAY)),
        ("2026-08-27", "2026-11-27", Period(date(2026, 8, 27), TODAY)),
    ],
)
def test_the_month_so_far_is_reported_unless_days_are_given(
    since: str | None, until: str | None, expected: Period
) -> None:
    assert read_period(since, until, TODAY) == expected


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("since=yesterday", "since='yesterday' is no day; give it as YYYY-MM-DD"),
        ("until=2026-02-30", "until='2026-02-30' is no day"),
        ("since=2026-11-28&until=2026-11-27", "is after until=2026-11-27"),
        ("since=2026-01-01&until=2026-11-27", f"are 331 days; at most {USAGE_DAYS} are allowed"),
    ],
)
async def test_days_that_are_none_are_refused_with_what_is_allowed(query: str, says: str) -> None:
    answer = await ask(open_memory_stores(JobBounds()).usage, f"/usage?{query}")
    assert answer.status_code == 400
    assert says in answer.json()["error"]


async def test_an_absent_store_is_said_and_nothing_is_reported_as_no_usage() -> None:
    answer = await ask(AbsentLedger(), "/usage")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "redis:6379" in answer.json()["error"]
