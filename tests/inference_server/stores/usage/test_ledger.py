"""What the ledger of usage says of jobs that came to an end, in memory and in Redis."""

from datetime import UTC, date, datetime, timedelta

import pytest
from easel_server.stores.jobs.interface import Canceled, Claim, Failed, JobBounds
from easel_server.stores.opening import Stores, open_memory_stores, open_stores
from easel_server.stores.usage import interface, memory
from easel_server.stores.usage.interface import OTHERS, USAGE_DAYS, UsageLedger
from redis.asyncio import Redis

from tests.support.jobs import build_job
from tests.support.redis_server import RedisServer
from tests.support.stored_images import succeed

EPOCH = date(1970, 1, 1)


def today() -> date:
    return datetime.now(UTC).date()


async def read(ledger: UsageLedger) -> dict[str, tuple[int, int, int, float]]:
    """Jobs, those from the cache, images and GPU-seconds by customer; of yesterday if a test began on it."""
    found = await ledger.read(today()) or await ledger.read(today() - timedelta(days=1))
    return {each.customer: (each.jobs, each.cached_jobs, each.images, each.gpu_seconds) for each in found}


async def claim_one(stores: Stores) -> Claim:
    (claim,) = await stores.jobs.claim("w", lease_seconds=60, wait_seconds=0)
    return claim


async def test_a_job_counts_for_its_customer_with_its_images_and_what_it_took(stores: Stores) -> None:
    for name, owner in (("a", "ann"), ("b", "bob"), ("c", "ann")):
        await stores.jobs.submit(build_job(name, owner=owner, images=2))
    for _ in range(3):
        await succeed(stores.jobs, await claim_one(stores), (b"1", b"2"), gpu_seconds=1.25)
    assert await read(stores.usage) == {"ann": (2, 0, 4, 2.5), "bob": (1, 0, 2, 1.25)}


async def test_an_end_that_is_reported_again_counts_once(stores: Stores) -> None:
    await stores.jobs.submit(build_job("a"))
    claim = await claim_one(stores)
    for _ in range(2):
        assert await succeed(stores.jobs, claim, (b"1",), gpu_seconds=3.0)
    assert await read(stores.usage) == {"anonymous": (1, 0, 1, 3.0)}


async def test_what_the_cache_answered_took_no_gpu(stores: Stores) -> None:
    for _ in range(2):  # the second time the client repeats its request
        await stores.jobs.submit(build_job("a", owner="ann", images=2), answer=(b"1", b"2"))
    assert await read(stores.usage) == {"ann": (1, 1, 2, 0.0)}


async def test_jobs_that_share_a_run_split_what_it_took_each_for_its_own_customer(stores: Stores) -> None:
    for name, owner in (("a", "ann"), ("b", "bob"), ("c", "ann")):
        await stores.jobs.submit(build_job(name, owner=owner), flight_key="same")
    await succeed(stores.jobs, await claim_one(stores), (b"1",), gpu_seconds=1.000001)
    found = await read(stores.usage)
    assert found == {"ann": (2, 0, 2, 0.666668), "bob": (1, 0, 1, 0.333333)}


async def test_work_for_nothing_is_its_customers_only_where_the_customer_ended_it(stores: Stores) -> None:
    """A cancelled or impossible request took a GPU; that a worker failed or died is nobody's bill."""
    for name, owner in (("a", "canceled"), ("b", "failed"), ("c", "retried")):
        await stores.jobs.submit(build_job(name, owner=owner))
    await stores.jobs.finish(await claim_one(stores), Canceled(), gpu_seconds=2.0)
    await stores.jobs.finish(await claim_one(stores), Failed("too large"), gpu_seconds=0.5)
    await stores.jobs.retry(await claim_one(stores), "the engine failed")
    assert await read(stores.usage) == {"canceled": (0, 0, 0, 2.0), "failed": (0, 0, 0, 0.5)}


async def test_a_job_that_moved_to_another_worker_took_both_parts_and_none_that_was_lost(stores: Stores) -> None:
    await stores.jobs.submit(build_job("a"))
    await stores.jobs.release(await claim_one(stores), gpu_seconds=8.0)  # begun anew elsewhere
    await stores.jobs.release(await claim_one(stores), checkpoint=b"latents", steps_done=2, gpu_seconds=1.5)
    await succeed(stores.jobs, await claim_one(stores), (b"1",), gpu_seconds=2.0)
    assert await read(stores.usage) == {"anonymous": (1, 0, 1, 3.5)}


@pytest.mark.redis
async def test_in_redis_a_day_has_a_thousand_names_and_goes_after_a_quarter(redis_server: RedisServer) -> None:
    stores = open_stores(redis_server.url, namespace="usage-bounds", service="sd", bounds=JobBounds())
    prefix = "easel:{usage-bounds/sd}:"
    try:
        async with Redis.from_url(redis_server.url, protocol=2) as client:
            names = [f"{prefix}usage:{(today() - EPOCH).days + offset}" for offset in (0, 1)]
            for name in names:  # midnight may be near
                full = [word for number in range(interface.MAX_CUSTOMERS) for word in (f"c{number}", "1 0 1 5")]
                await client.hset(name, items=[*full, "c0", "damaged"])
            for name, owner in (("a", "new"), ("b", "newer"), ("c", "c1")):
                await stores.jobs.submit(build_job(name, owner=owner), answer=(b"1",))
            found = await read(stores.usage)
            assert (found[OTHERS], found["c1"]) == ((2, 2, 2, 0.0), (2, 1, 2, 0.000005))
            assert "new" not in found
            assert "c0" not in found
            await client.delete(*names)
            await stores.jobs.submit(build_job("d"), answer=(b"1",))
            seconds = max([await client.ttl(name) for name in names])
            assert USAGE_DAYS - 1 <= seconds / 86400 <= USAGE_DAYS
    finally:
        await stores.close()


async def test_in_memory_the_bounds_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_CUSTOMERS", 2)
    now = datetime(2026, 1, 31, 23, 59, tzinfo=UTC)
    stores = open_memory_stores(JobBounds(), clock=lambda: now)
    for name in ("a", "b", "c", "d"):
        await stores.jobs.submit(build_job(name, owner=name), answer=(b"1",))
    assert [(each.customer, each.jobs) for each in await stores.usage.read(date(2026, 1, 31))] == [
        (OTHERS, 2),
        ("a", 1),
        ("b", 1),
    ]
    now += timedelta(days=USAGE_DAYS)
    assert await stores.usage.read(date(2026, 1, 31)) == ()
