"""What both brokers promise of their cache, facts and buckets."""

import asyncio
import uuid

import pytest
from easel_server.stores.cache.interface import CACHE_ENTRY_OVERHEAD_BYTES, CachedImages
from easel_server.stores.interface import Broker
from easel_server.stores.jobs.interface import BrokerSettings
from easel_server.stores.limits.interface import Charge
from easel_server.stores.redis_broker import RedisBroker

from tests.inference_server.stores.conftest import BuildBroker
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer

LONG_SECONDS = 3600.0
IMAGES = (b"first image", b"second image \x00\xff")
KILOBYTE = 1000


def requests(owner: str, *, per_minute: float, burst: float, count: float = 1) -> Charge:
    return Charge(f"requests:{owner}", round(count * 1000), round(per_minute * 1000), round(burst * 1000))


async def images_of(broker: Broker, key: str) -> tuple[bytes, ...] | None:
    found = await broker.cache_get(key)
    return found.images if found else None


# Cache


async def test_cached_images_come_back_until_their_time_is_over(broker: Broker) -> None:
    assert await broker.cache_get("key") is None
    await broker.cache_put("key", (b"old", b"older"), ttl_seconds=LONG_SECONDS)
    await broker.cache_put("key", IMAGES, ttl_seconds=0.2)
    assert await images_of(broker, "key") == IMAGES

    async def is_gone() -> bool:
        return await broker.cache_get("key") is None

    assert await eventually(is_gone)


async def test_cached_images_know_their_age(broker: Broker) -> None:
    await broker.cache_put("key", IMAGES, ttl_seconds=LONG_SECONDS, age_seconds=100)
    found = await broker.cache_get("key")
    assert found is not None
    assert 100 <= found.age_seconds < 160


async def test_the_least_recently_used_make_room_and_no_more_of_them_than_needed(build_broker: BuildBroker) -> None:
    broker = build_broker(BrokerSettings(max_cache_bytes=4 * (KILOBYTE + CACHE_ENTRY_OVERHEAD_BYTES)))
    for name in "abcd":
        await broker.cache_put(name, (name.encode() * KILOBYTE,), ttl_seconds=LONG_SECONDS)
    assert await images_of(broker, "a") is not None  # now b is the one that was used least recently
    await broker.cache_put("e", (b"e" * KILOBYTE,), ttl_seconds=LONG_SECONDS)
    kept = {name for name in "abcde" if await images_of(broker, name)}
    assert kept == {"a", "c", "d", "e"}


async def test_many_entries_never_take_more_than_the_budget(build_broker: BuildBroker) -> None:
    budget = 20 * KILOBYTE
    broker = build_broker(BrokerSettings(max_cache_bytes=budget))
    for index in range(100):
        size = 1 + index * 37 % (3 * KILOBYTE)
        await broker.cache_put(f"key-{index % 60}", (b"x" * size,), ttl_seconds=LONG_SECONDS)
        found = [await broker.cache_get(f"key-{index}") for index in range(60)]
        assert sum(len(entry.images[0]) for entry in found if entry) <= budget
    assert any(found)


async def test_what_expired_gives_its_room_back(build_broker: BuildBroker) -> None:
    broker = build_broker(BrokerSettings(max_cache_bytes=2 * KILOBYTE))
    await broker.cache_put("kept", (b"k" * 500,), ttl_seconds=LONG_SECONDS)
    await broker.cache_put("passing", (b"p" * 400,), ttl_seconds=0.05)

    async def is_gone() -> bool:
        return await broker.cache_get("passing") is None

    assert await eventually(is_gone)
    await broker.cache_put("new", (b"n" * 400,), ttl_seconds=LONG_SECONDS)
    assert await images_of(broker, "kept") is not None


async def test_an_entry_above_the_budget_is_not_kept_and_leaves_the_others_alone(build_broker: BuildBroker) -> None:
    broker = build_broker(BrokerSettings(max_cache_bytes=2 * KILOBYTE))
    await broker.cache_put("small", (b"s",), ttl_seconds=LONG_SECONDS)
    await broker.cache_put("large", (b"l" * 3 * KILOBYTE,), ttl_seconds=LONG_SECONDS)
    assert await broker.cache_get("large") is None
    assert await images_of(broker, "small") == (b"s",)


# Facts


async def test_a_fact_is_told_until_its_time_is_over(broker: Broker) -> None:
    assert await broker.get_fact("name") is None
    await broker.put_fact("name", b"old", ttl_seconds=LONG_SECONDS)
    await broker.put_fact("name", b"new", ttl_seconds=0.2)
    assert await broker.get_fact("name") == b"new"

    async def is_gone() -> bool:
        return await broker.get_fact("name") is None

    assert await eventually(is_gone)


# Buckets


async def test_a_burst_passes_and_then_the_rate_holds(broker: Broker) -> None:
    charge = requests("a", per_minute=6, burst=3)
    decisions = [await broker.take([charge]) for _ in range(5)]
    assert [decision.allowed for decision in decisions] == [True, True, True, False, False]
    assert [decision.buckets[0].remaining // 1000 for decision in decisions] == [2, 1, 0, 0, 0]
    assert all(decision.retry_after_seconds == 0 for decision in decisions[:3])
    assert 8 < decisions[3].retry_after_seconds <= 10
    assert decisions[4].retry_after_seconds <= decisions[3].retry_after_seconds  # a refusal takes nothing
    assert (await broker.take([requests("b", per_minute=6, burst=3)])).allowed


async def test_all_buckets_are_charged_or_none(broker: Broker) -> None:
    wide = requests("a", per_minute=6, burst=10)
    narrow = requests("service", per_minute=6, burst=1)
    assert (await broker.take([wide, narrow])).allowed
    refused = await broker.take([wide, narrow])
    assert not refused.allowed
    assert [state.remaining // 1000 for state in refused.buckets] == [9, 0]
    assert (await broker.take([wide])).buckets[0].remaining // 1000 == 8


async def test_what_is_given_back_can_be_taken_again(broker: Broker) -> None:
    charge = requests("a", per_minute=1, burst=1)
    for _ in range(3):
        assert (await broker.take([charge])).allowed
        await broker.refund([charge])
    assert (await broker.take([charge])).allowed
    assert not (await broker.take([charge])).allowed


async def test_a_charge_above_its_bucket_leaves_it_in_debt(broker: Broker) -> None:
    assert (await broker.take([requests("a", per_minute=60, burst=10, count=15)])).allowed
    refused = await broker.take([requests("a", per_minute=60, burst=10)])
    assert 5 < refused.retry_after_seconds <= 6


async def test_no_charge_always_passes(broker: Broker) -> None:
    assert (await broker.take([])).allowed


async def test_waiting_as_long_as_one_is_told_gets_through(broker: Broker) -> None:
    charge = requests("a", per_minute=300, burst=1)  # one in 0.2 s
    assert (await broker.take([charge])).allowed
    for _ in range(3):
        refused = await broker.take([charge])
        assert not refused.allowed
        await asyncio.sleep(refused.retry_after_seconds)
        assert (await broker.take([charge])).allowed


@pytest.mark.redis
async def test_redis_tells_a_wait_to_the_millisecond_of_its_own_clock(redis_server: RedisServer) -> None:
    broker = RedisBroker.from_url(redis_server.url, namespace=uuid.uuid4().hex, service="sd", settings=BrokerSettings())
    connection = broker._connection

    async def now_milliseconds() -> int:
        seconds, microseconds = await connection.command("TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000

    charge = Charge("requests:a", amount=1, per_minute=7, burst=1)  # 60,000 / 7 milliseconds: 8571.4
    assert (await broker.take([charge])).allowed
    taken_at = int(await connection.command("HGET", connection.key("rate:requests:a"), "at_ms"))
    for _ in range(10_000):
        before, refused, after = await now_milliseconds(), await broker.take([charge]), await now_milliseconds()
        if before == after:  # else the time of the refusal isn't known
            assert before + round(refused.retry_after_seconds * 1000) == taken_at + 8572
            break
    else:
        pytest.fail("the clock went on during every take")
    await broker.close()


async def test_many_gateways_share_one_limit(build_broker: BuildBroker) -> None:
    broker = build_broker(BrokerSettings())
    gateways = [broker] * 4
    if type(broker).__name__ == "RedisBroker":
        gateways = [build_broker(BrokerSettings()) for _ in range(4)]
    charge = requests("a", per_minute=1, burst=10)
    decisions = await asyncio.gather(*(gateway.take([charge]) for gateway in gateways for _ in range(10)))
    assert sum(decision.allowed for decision in decisions) == 10


@pytest.mark.parametrize("age_seconds", [0.0, 12.5])
async def test_a_cached_entry_is_a_value(broker: Broker, age_seconds: float) -> None:
    await broker.cache_put("key", IMAGES, ttl_seconds=LONG_SECONDS, age_seconds=age_seconds)
    found = await broker.cache_get("key")
    assert isinstance(found, CachedImages)
    assert found.images == IMAGES
