"""Webhooks wait per host, in all stores; and on Redis they outlive it."""

from collections.abc import Iterator

import pytest
from easel_server.generation.request import WebhookTarget
from easel_server.stores.jobs.interface import JobBounds
from easel_server.stores.opening import Stores, open_stores
from easel_server.stores.outbox.interface import MAX_ATTEMPTS_PER_HOST, Delivery

from tests.support.eventually import eventually
from tests.support.jobs import build_job
from tests.support.redis_server import RedisServer

LONG_SECONDS = 3600.0
SLOW = "https://slow.example:8443/hook"
OTHER = "https://other.example/hook"


async def end_jobs(stores: Stores, name: str, url: str, count: int) -> None:
    for number in range(count):
        await stores.jobs.submit(build_job(f"{name}-{number:03}", webhook=WebhookTarget(url=url)))
        await stores.jobs.cancel(f"{name}-{number:03}")


async def claim_all(stores: Stores, lease_seconds: float = LONG_SECONDS) -> list[Delivery]:
    claimed = []
    while (delivery := await stores.outbox.claim(lease_seconds=lease_seconds, wait_seconds=0)) is not None:
        claimed.append(delivery)
    return claimed


async def test_one_host_gets_so_many_attempts_at_a_time_and_the_others_go_before(stores: Stores) -> None:
    await end_jobs(stores, "slow", SLOW, 3 * MAX_ATTEMPTS_PER_HOST)
    await end_jobs(stores, "other", OTHER, 2)
    names = [delivery.id for delivery in await claim_all(stores)]
    slow = [f"slow-{number:03}.completed" for number in range(MAX_ATTEMPTS_PER_HOST)]
    assert names == [*slow, "other-000.completed", "other-001.completed"]


async def test_deliveries_of_busy_customers_let_those_of_others_go_before(stores: Stores) -> None:
    for number, owner in enumerate(["hog", "hog", "other", "hog", "third"]):
        url = f"https://receiver-{number % 2}.example/"
        await stores.jobs.submit(build_job(f"job-{number}", owner=owner, webhook=WebhookTarget(url=url)))
        await stores.jobs.cancel(f"job-{number}")
    busy = {"hog"}
    claimed = []
    for _ in range(3):
        delivery = await stores.outbox.claim(
            lease_seconds=LONG_SECONDS, wait_seconds=0, find_busy_customers=lambda: busy
        )
        claimed.append(delivery.job.owner if delivery else None)
    assert claimed == ["other", "third", None]
    busy.clear()
    assert [delivery.job.owner for delivery in await claim_all(stores)] == ["hog"] * 3, "none is lost or counted"
    assert {delivery.attempt for delivery in await claim_all(stores)} == set()


@pytest.mark.parametrize("end", ["settled", "postponed"])
async def test_an_attempt_that_ends_lets_the_next_one_to_its_host_begin(stores: Stores, end: str) -> None:
    await end_jobs(stores, "slow", SLOW, MAX_ATTEMPTS_PER_HOST + 1)
    first, *_ = await claim_all(stores)
    if end == "settled":
        await stores.outbox.settle(first)
    else:
        await stores.outbox.postpone(first, LONG_SECONDS)
    assert [delivery.id for delivery in await claim_all(stores)] == [f"slow-{MAX_ATTEMPTS_PER_HOST:03}.completed"]


async def test_attempts_of_a_deliverer_that_died_end_with_their_lease(stores: Stores) -> None:
    await end_jobs(stores, "slow", SLOW, MAX_ATTEMPTS_PER_HOST + 1)
    for _ in range(MAX_ATTEMPTS_PER_HOST):
        assert await stores.outbox.claim(lease_seconds=0.1, wait_seconds=0) is not None
    claimed: list[Delivery] = []

    async def are_free_again() -> bool:
        claimed.extend(await claim_all(stores))
        return len(claimed) >= MAX_ATTEMPTS_PER_HOST

    assert await eventually(are_free_again)
    assert len({delivery.id for delivery in claimed}) == len(claimed) == MAX_ATTEMPTS_PER_HOST


async def test_every_delivery_is_claimed_once_whatever_the_order(stores: Stores) -> None:
    for index, url in enumerate((SLOW, OTHER, "http://third.example/", "http://[2001:db8::1]:80/x")):
        await end_jobs(stores, f"job-{index}", url, 3 * MAX_ATTEMPTS_PER_HOST)
    sent: list[str] = []
    while claimed := await claim_all(stores):
        for delivery in reversed(claimed):
            sent.append(delivery.id)
            await stores.outbox.settle(delivery)
    assert len(sent) == len(set(sent)) == 12 * MAX_ATTEMPTS_PER_HOST


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    with RedisServer("--appendfsync", "always") as server:
        yield server


@pytest.mark.redis
async def test_retries_outlive_gateways_and_redis(own_server: RedisServer) -> None:
    def connect() -> Stores:
        return open_stores(own_server.url, namespace="ml", service="sd", bounds=JobBounds())

    stores = connect()
    await end_jobs(stores, "due", SLOW, 1)
    await end_jobs(stores, "postponed", OTHER, 1)
    for delivery in await claim_all(stores, lease_seconds=0.2):
        if delivery.id.startswith("postponed"):
            await stores.outbox.postpone(delivery, 0.3)
    await stores.close()
    own_server.restart()

    stores = connect()
    seen: dict[str, int] = {}

    async def have_both_come() -> bool:
        delivery = await stores.outbox.claim(lease_seconds=LONG_SECONDS, wait_seconds=0)
        if delivery is not None:
            seen[delivery.id] = delivery.attempt
        return len(seen) == 2

    assert await eventually(have_both_come)
    assert seen == {"due-000.completed": 2, "postponed-000.completed": 2}
    await stores.close()
