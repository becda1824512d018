"""Webhooks wait per host, on both brokers; and on Redis they outlive it."""

from collections.abc import Iterator

import pytest
from easel_server.generation.request import WebhookTarget
from easel_server.stores.interface import Broker
from easel_server.stores.jobs.interface import BrokerSettings
from easel_server.stores.outbox.interface import MAX_ATTEMPTS_PER_HOST, Delivery
from easel_server.stores.redis_broker import RedisBroker

from tests.support.eventually import eventually
from tests.support.jobs import build_job
from tests.support.redis_server import RedisServer

LONG_SECONDS = 3600.0
SLOW = "https://slow.example:8443/hook"
OTHER = "https://other.example/hook"


async def end_jobs(broker: Broker, name: str, url: str, count: int) -> None:
    for number in range(count):
        await broker.submit(build_job(f"{name}-{number:03}", webhook=WebhookTarget(url=url)))
        await broker.cancel(f"{name}-{number:03}")


async def claim_all(broker: Broker, lease_seconds: float = LONG_SECONDS) -> list[Delivery]:
    claimed = []
    while (delivery := await broker.claim_delivery(lease_seconds=lease_seconds, wait_seconds=0)) is not None:
        claimed.append(delivery)
    return claimed


async def test_one_host_gets_so_many_attempts_at_a_time_and_the_others_go_before(broker: Broker) -> None:
    await end_jobs(broker, "slow", SLOW, 3 * MAX_ATTEMPTS_PER_HOST)
    await end_jobs(broker, "other", OTHER, 2)
    names = [delivery.id for delivery in await claim_all(broker)]
    slow = [f"slow-{number:03}.completed" for number in range(MAX_ATTEMPTS_PER_HOST)]
    assert names == [*slow, "other-000.completed", "other-001.completed"]


@pytest.mark.parametrize("end", ["settled", "postponed"])
async def test_an_attempt_that_ends_lets_the_next_one_to_its_host_begin(broker: Broker, end: str) -> None:
    await end_jobs(broker, "slow", SLOW, MAX_ATTEMPTS_PER_HOST + 1)
    first, *_ = await claim_all(broker)
    if end == "settled":
        await broker.settle_delivery(first)
    else:
        await broker.postpone_delivery(first, LONG_SECONDS)
    assert [delivery.id for delivery in await claim_all(broker)] == [f"slow-{MAX_ATTEMPTS_PER_HOST:03}.completed"]


async def test_attempts_of_a_deliverer_that_died_end_with_their_lease(broker: Broker) -> None:
    await end_jobs(broker, "slow", SLOW, MAX_ATTEMPTS_PER_HOST + 1)
    for _ in range(MAX_ATTEMPTS_PER_HOST):
        assert await broker.claim_delivery(lease_seconds=0.1, wait_seconds=0) is not None
    claimed: list[Delivery] = []

    async def are_free_again() -> bool:
        claimed.extend(await claim_all(broker))
        return len(claimed) >= MAX_ATTEMPTS_PER_HOST

    assert await eventually(are_free_again)
    assert len({delivery.id for delivery in claimed}) == len(claimed) == MAX_ATTEMPTS_PER_HOST


async def test_every_delivery_is_claimed_once_whatever_the_order(broker: Broker) -> None:
    for index, url in enumerate((SLOW, OTHER, "http://third.example/", "http://[2001:db8::1]:80/x")):
        await end_jobs(broker, f"job-{index}", url, 3 * MAX_ATTEMPTS_PER_HOST)
    told: list[str] = []
    while claimed := await claim_all(broker):
        for delivery in reversed(claimed):
            told.append(delivery.id)
            await broker.settle_delivery(delivery)
    assert len(told) == len(set(told)) == 12 * MAX_ATTEMPTS_PER_HOST


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    with RedisServer("--appendfsync", "always") as server:
        yield server


@pytest.mark.redis
async def test_retries_outlive_gateways_and_redis(own_server: RedisServer) -> None:
    async def connect() -> RedisBroker:
        return RedisBroker.from_url(own_server.url, namespace="ml", service="sd", settings=BrokerSettings())

    broker = await connect()
    await end_jobs(broker, "due", SLOW, 1)
    await end_jobs(broker, "postponed", OTHER, 1)
    for delivery in await claim_all(broker, lease_seconds=0.2):
        if delivery.id.startswith("postponed"):
            await broker.postpone_delivery(delivery, 0.3)
    await broker.close()
    own_server.restart()

    broker = await connect()
    seen: dict[str, int] = {}

    async def have_both_come() -> bool:
        delivery = await broker.claim_delivery(lease_seconds=LONG_SECONDS, wait_seconds=0)
        if delivery is not None:
            seen[delivery.id] = delivery.attempt
        return len(seen) == 2

    assert await eventually(have_both_come)
    assert seen == {"due-000.completed": 2, "postponed-000.completed": 2}
    await broker.close()
