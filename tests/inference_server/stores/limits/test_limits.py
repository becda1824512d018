"""What the rate limits promise, in memory and on Redis."""

import asyncio
import uuid

import pytest
from easel_server.stores.jobs.interface import JobBounds
from easel_server.stores.limits.interface import Charge, RateLimiter
from easel_server.stores.limits.redis import RedisRateLimiter
from easel_server.stores.opening import Stores, open_stores

from tests.inference_server.stores.conftest import BuildStores
from tests.support.redis_server import RedisServer


@pytest.fixture
def limits(stores: Stores) -> RateLimiter:
    return stores.limits


def requests(owner: str, *, per_minute: float, burst: float, count: float = 1) -> Charge:
    return Charge(f"requests:{owner}", round(count * 1000), round(per_minute * 1000), round(burst * 1000))


async def test_a_burst_passes_and_then_the_rate_holds(limits: RateLimiter) -> None:
    charge = requests("a", per_minute=6, burst=3)
    decisions = [await limits.take([charge]) for _ in range(5)]
    assert [decision.allowed for decision in decisions] == [True, True, True, False, False]
    assert [decision.buckets[0].remaining // 1000 for decision in decisions] == [2, 1, 0, 0, 0]
    assert all(decision.retry_after_seconds == 0 for decision in decisions[:3])
    assert 8 < decisions[3].retry_after_seconds <= 10
    assert decisions[4].retry_after_seconds <= decisions[3].retry_after_seconds  # a refusal takes nothing
    assert (await limits.take([requests("b", per_minute=6, burst=3)])).allowed


async def test_all_buckets_are_charged_or_none(limits: RateLimiter) -> None:
    wide = requests("a", per_minute=6, burst=10)
    narrow = requests("service", per_minute=6, burst=1)
    assert (await limits.take([wide, narrow])).allowed
    refused = await limits.take([wide, narrow])
    assert not refused.allowed
    assert [state.remaining // 1000 for state in refused.buckets] == [9, 0]
    assert (await limits.take([wide])).buckets[0].remaining // 1000 == 8


async def test_what_is_refunded_can_be_taken_again(limits: RateLimiter) -> None:
    charge = requests("a", per_minute=1, burst=1)
    for _ in range(3):
        assert (await limits.take([charge])).allowed
        await limits.refund([charge])
    assert (await limits.take([charge])).allowed
    assert not (await limits.take([charge])).allowed


async def test_a_charge_above_its_bucket_leaves_it_in_debt(limits: RateLimiter) -> None:
    assert (await limits.take([requests("a", per_minute=60, burst=10, count=15)])).allowed
    refused = await limits.take([requests("a", per_minute=60, burst=10)])
    assert 5 < refused.retry_after_seconds <= 6


async def test_no_charge_always_passes(limits: RateLimiter) -> None:
    assert (await limits.take([])).allowed


async def test_waiting_as_long_as_reported_gets_through(limits: RateLimiter) -> None:
    charge = requests("a", per_minute=300, burst=1)  # one in 0.2 s
    assert (await limits.take([charge])).allowed
    for _ in range(3):
        while (refused := await limits.take([charge])).allowed:
            pass  # this process was held up until there was something again
        await asyncio.sleep(refused.retry_after_seconds)
        assert (await limits.take([charge])).allowed


@pytest.mark.redis
async def test_redis_reports_a_wait_to_the_millisecond_of_its_own_clock(redis_server: RedisServer) -> None:
    stores = open_stores(redis_server.url, namespace=uuid.uuid4().hex, service="sd", bounds=JobBounds())
    limits = stores.limits
    assert isinstance(limits, RedisRateLimiter)
    connection = limits._connection

    async def now_milliseconds() -> int:
        seconds, microseconds = await connection.command("TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000

    charge = Charge("requests:a", amount=1, per_minute=7, burst=1)  # 60,000 / 7 milliseconds: 8571.4
    assert (await limits.take([charge])).allowed
    taken_at = int(await connection.command("HGET", connection.key("rate:requests:a"), "at_ms"))
    for _ in range(10_000):
        before, refused, after = await now_milliseconds(), await limits.take([charge]), await now_milliseconds()
        if before == after:  # else the time of the refusal isn't known
            assert before + round(refused.retry_after_seconds * 1000) == taken_at + 8572
            break
    else:
        pytest.fail("the clock went on during every take")
    await stores.close()


async def test_many_gateways_share_one_limit(build_stores: BuildStores) -> None:
    limits = build_stores().limits
    gateways = [limits] * 4
    if isinstance(limits, RedisRateLimiter):
        gateways = [build_stores().limits for _ in range(4)]
    charge = requests("a", per_minute=1, burst=10)
    decisions = await asyncio.gather(*(gateway.take([charge]) for gateway in gateways for _ in range(10)))
    assert sum(decision.allowed for decision in decisions) == 10
