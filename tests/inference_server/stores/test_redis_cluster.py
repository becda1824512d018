"""What only a Redis Cluster can do to us: move the service's keys, lose the server that has them."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from functools import partial

import pytest
from easel_contract import names
from easel_server.generation.job import JobState
from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.jobs.interface import HeartbeatReply, JobBounds
from easel_server.stores.opening import Stores, open_stores

from tests.inference_server.stores.steps import IMAGES, claim, job_of
from tests.support.eventually import eventually
from tests.support.jobs import build_job
from tests.support.redis_cluster import SIZE, RedisCluster
from tests.support.stored_images import read_images, succeed

pytestmark = pytest.mark.redis

PREFIX = names.redis_prefix("ml", "sd")


@pytest.fixture
def own_cluster() -> Iterator[RedisCluster]:
    with RedisCluster() as cluster:
        yield cluster


@pytest.fixture
async def clients(own_cluster: RedisCluster) -> AsyncIterator[list[Stores]]:
    """Of one service, each knowing another server."""
    made = [open_stores(url, namespace="ml", service="sd", bounds=JobBounds()) for url in own_cluster.urls]
    yield made
    for stores in made:
        await stores.close()


class Move:
    """The slot of the service on its way to another server."""

    def __init__(self, cluster: RedisCluster) -> None:
        source = cluster.owner_of(PREFIX)
        target = (source + 1) % SIZE
        self._source, self._target = cluster.client(source), cluster.client(target)
        self._target_port = cluster.servers[target].port
        self._slot = self._source.execute_command("CLUSTER", "KEYSLOT", PREFIX)
        self._ids = [client.execute_command("CLUSTER", "MYID").decode() for client in (self._source, self._target)]

    def begin(self) -> None:
        self._target.execute_command("CLUSTER", "SETSLOT", self._slot, "IMPORTING", self._ids[0])
        self._source.execute_command("CLUSTER", "SETSLOT", self._slot, "MIGRATING", self._ids[1])

    def complete(self) -> None:
        keys = self._source.execute_command("CLUSTER", "GETKEYSINSLOT", self._slot, 1000)
        assert keys
        self._source.execute_command("MIGRATE", "127.0.0.1", self._target_port, "", 0, 5000, "KEYS", *keys)
        for client in (self._target, self._source):
            client.execute_command("CLUSTER", "SETSLOT", self._slot, "NODE", self._ids[1])
        for client in (self._source, self._target):
            client.close()


async def test_jobs_wait_out_the_move_of_their_keys_to_another_server(
    own_cluster: RedisCluster, clients: list[Stores]
) -> None:
    gateway, worker, other = clients
    await gateway.jobs.submit(build_job("running"))
    await gateway.jobs.submit(build_job("waiting"))
    held = await claim(worker.jobs)
    waiting = asyncio.create_task(other.jobs.wait("running", 60))
    move = Move(own_cluster)
    move.begin()
    for stores in clients:
        with pytest.raises(StoreUnavailableError, match="goes on by itself"):
            await stores.jobs.get("waiting")
    move.complete()
    for stores in clients:
        await eventually(partial(is_served, stores, "running"))  # the servers inform each other first
    assert await worker.jobs.heartbeat(held, 1) == HeartbeatReply.CONTINUE
    assert await succeed(worker.jobs, held, IMAGES)
    job = await asyncio.wait_for(waiting, 20)
    assert job is not None
    assert job.state == JobState.SUCCEEDED
    for stores in clients:
        assert await read_images(stores.jobs, "running") == IMAGES
        assert (await stores.jobs.depth()).waiting == 1
    assert (await claim(gateway.jobs)).job.id == "waiting"


async def test_a_cluster_that_loses_the_keys_server_is_away_until_it_is_back(
    own_cluster: RedisCluster, clients: list[Stores]
) -> None:
    for stores in clients:
        await stores.jobs.submit(build_job("a"))
    server = own_cluster.servers[own_cluster.owner_of(PREFIX)]
    server.kill()
    for stores in clients:
        with pytest.raises(StoreUnavailableError):
            await stores.jobs.get("a")
    server.start()
    for stores in clients:
        await eventually(partial(is_served, stores))
        assert (await job_of(stores.jobs, "a")).state == JobState.WAITING


async def test_the_server_that_takes_a_lost_one_s_slots_is_found(
    own_cluster: RedisCluster, clients: list[Stores]
) -> None:
    for stores in clients:
        await stores.ping()
        await stores.jobs.depth()
    lost = own_cluster.owner_of(PREFIX)
    survivors = [own_cluster.client(index) for index in range(SIZE) if index != lost]
    own_cluster.servers[lost].kill()
    heir = survivors[0].execute_command("CLUSTER", "MYID")
    for client in survivors:
        slot = client.execute_command("CLUSTER", "KEYSLOT", PREFIX)
        client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", heir)
        client.close()
    for index, stores in enumerate(clients):
        if index == lost:  # knows no other address
            continue
        with pytest.raises(StoreUnavailableError):
            await stores.jobs.depth()
        await eventually(partial(is_accepted, stores))


async def is_accepted(stores: Stores) -> bool:
    try:
        await stores.jobs.submit(build_job("a"))
    except StoreUnavailableError:
        return False
    return True


async def is_served(stores: Stores, job_id: str = "a") -> bool:
    try:
        await stores.ping()
        return await stores.jobs.get(job_id) is not None
    except StoreUnavailableError:
        return False
