"""A master that dies, freezes or is told to hand over, with a real replica and three real Sentinels."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from functools import partial

import pytest
from easel_contract.redis_url import parse_sentinel_url
from easel_server.generation.job import JobState
from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.jobs.interface import JobBounds
from easel_server.stores.opening import Stores, open_stores
from easel_server.stores.redis.sentinel import Sentinels
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.inference_server.stores.steps import IMAGES, claim, job_of
from tests.support.eventually import eventually
from tests.support.jobs import build_job
from tests.support.redis_sentinels import MASTER, ReplicatedRedis, listen
from tests.support.redis_server import RedisServer
from tests.support.stored_images import read_images, succeed

pytestmark = pytest.mark.redis


def open_service(url: str) -> Stores:
    return open_stores(url, namespace="ml", service="sd", bounds=JobBounds())


@pytest.fixture
def redis() -> Iterator[ReplicatedRedis]:
    with ReplicatedRedis() as replicated:
        yield replicated


@pytest.fixture
async def processes(redis: ReplicatedRedis) -> AsyncIterator[list[Stores]]:
    """Of one service: a gateway's and a worker's."""
    made = [open_service(redis.url) for _ in range(2)]
    yield made
    for stores in made:
        await stores.close()


async def is_served(stores: Stores) -> bool:
    try:
        await stores.jobs.submit(build_job("probe"))
    except StoreUnavailableError:
        return False
    return True


async def await_another_master(redis: ReplicatedRedis, before: RedisServer) -> None:
    async def is_another() -> bool:
        return redis.find_master() is not before

    await eventually(is_another)


async def accept_jobs(redis: ReplicatedRedis, gateway: Stores, *names: str) -> None:
    """Jobs that the replica has, too: replication doesn't wait for it by itself."""
    for name in names:
        await gateway.jobs.submit(build_job(name))
    with redis.client(redis.find_master()) as master:
        assert master.wait(1, 5000) == 1


@pytest.mark.parametrize("way", ["killed", "frozen", "demoted"])
async def test_jobs_that_were_accepted_before_a_fail_over_are_finished_after_it(
    redis: ReplicatedRedis, processes: list[Stores], way: str
) -> None:
    gateway, worker = processes
    await accept_jobs(redis, gateway, "running", "waiting")
    held = await claim(worker.jobs)
    waiting = asyncio.create_task(gateway.jobs.wait(held.job.id, 60))
    with redis.client(redis.find_master()) as client:
        assert client.wait(1, 5000) == 1
    master = redis.find_master()
    if way == "killed":
        master.kill()
    elif way == "frozen":
        redis.pause(master)
    else:
        redis.fail_over()
    try:
        await await_another_master(redis, master)
        for stores in processes:
            await eventually(partial(is_served, stores))
        assert await succeed(worker.jobs, held, IMAGES)
        job = await asyncio.wait_for(waiting, 30)
        assert job is not None
        assert job.state == JobState.SUCCEEDED
        assert await read_images(gateway.jobs, held.job.id) == IMAGES
        assert (await job_of(worker.jobs, "waiting")).state == JobState.WAITING
    finally:
        redis.resume(master)


async def test_a_master_that_was_frozen_is_left_although_it_answers_again(
    redis: ReplicatedRedis, processes: list[Stores]
) -> None:
    """It takes itself for the master until the Sentinels have told it."""
    gateway, _ = processes
    await accept_jobs(redis, gateway, "before")
    frozen = redis.find_master()
    redis.pause(frozen)
    await await_another_master(redis, frozen)
    await eventually(partial(is_served, gateway))
    redis.resume(frozen)
    await gateway.jobs.submit(build_job("after"))
    with redis.client(frozen) as client:

        async def is_replica() -> bool:
            return bool(client.info("replication")["role"] == "slave")

        await eventually(is_replica)
    assert (await job_of(gateway.jobs, "after")).state == JobState.WAITING
    assert (await job_of(gateway.jobs, "before")).state == JobState.WAITING


async def test_no_connection_stays_with_a_master_that_is_a_replica_now(
    redis: ReplicatedRedis, processes: list[Stores]
) -> None:
    gateway, worker = processes
    await accept_jobs(redis, gateway, "before")
    sleeping = asyncio.create_task(worker.jobs.wait("before", 60))  # subscribed, or in a pop that blocks
    demoted = redis.find_master()
    redis.fail_over()
    await await_another_master(redis, demoted)
    for stores in processes:
        await eventually(partial(is_served, stores))

    async def are_gone() -> bool:
        """All but the Sentinels', the new master's, and this one."""
        with redis.client(demoted) as client:
            own = client.client_id()
            names = [each["name"] for each in client.client_list() if int(each["id"]) != own and each["flags"] != "M"]
        return all(name.startswith("sentinel-") for name in names)

    await eventually(are_gone)
    held = await claim(worker.jobs, "before")
    assert await succeed(worker.jobs, held, IMAGES)
    job = await asyncio.wait_for(sleeping, 20)
    assert job is not None
    assert job.state == JobState.SUCCEEDED


async def test_sentinels_that_are_away_are_no_matter_while_one_is_left(
    redis: ReplicatedRedis, processes: list[Stores]
) -> None:
    redis.kill_sentinel(0)
    redis.kill_sentinel(1)
    gateway, _ = processes
    await gateway.ping()


async def test_without_sentinels_the_error_says_who_was_asked(redis: ReplicatedRedis) -> None:
    for number in range(3):
        redis.kill_sentinel(number)
    stores = open_service(redis.url)
    with pytest.raises(StoreUnavailableError, match=f"no Sentinel knows the master {MASTER}: 127.0.0.1:") as caught:
        await stores.ping()
    assert "of-the" not in str(caught.value), "no password"
    await stores.close()


async def test_a_master_that_no_sentinel_watches_is_said(redis: ReplicatedRedis) -> None:
    stores = open_service(redis.url.replace(f"/{MASTER}/", "/another/"))
    with pytest.raises(StoreUnavailableError, match="watches none of that name"):
        await stores.ping()
    await stores.close()


async def test_servers_and_sentinels_with_tls_are_believed_by_the_authority_that_is_given() -> None:
    with ReplicatedRedis(with_tls=True) as redis:
        believing = open_service(f"{redis.url}&ssl_ca_certs={redis.ca_file}")
        await believing.jobs.submit(build_job("a"))
        assert (await job_of(believing.jobs, "a")).state == JobState.WAITING
        await believing.close()
        doubting = open_service(redis.url)
        with pytest.raises(StoreUnavailableError, match="certificate verify failed"):
            await doubting.ping()
        await doubting.close()


@pytest.mark.parametrize(
    "reply", [b"*1\r\n$1\r\na\r\n", b"+OK\r\n", b":5\r\n", b"*2\r\n$1\r\na\r\n$1\r\nb\r\n", b"?\r\n"]
)
async def test_what_answers_in_a_sentinel_s_place_harms_no_other(reply: bytes) -> None:
    odd, odd_place = await listen(reply)
    good, good_place = await listen(b"*2\r\n$8\r\n10.0.0.2\r\n$4\r\n6379\r\n")
    async with odd, good:
        both, alone = (
            Sentinels(url, {})
            for places in (f"{odd_place},{good_place}", odd_place)
            if (url := parse_sentinel_url(f"redis+sentinel://{places}/m")) is not None
        )
        assert await both.get_master_address() == ("10.0.0.2", 6379)
        with pytest.raises(RedisConnectionError, match="no Sentinel knows the master m"):
            await alone.get_master_address()
        for each in (both, alone):
            await each.close()
