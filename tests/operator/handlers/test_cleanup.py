"""The end of a deleted service, on a real redis-server with the server's own stores, and an API server in memory."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from easel_contract import names
from easel_contract.names import redis_prefix
from easel_operator.cluster.object_store import ObjectStore
from easel_operator.cluster.redis.service_keys import ServiceKeys
from easel_operator.cluster.writer import ClusterWriter
from easel_operator.decide import deletion
from easel_operator.decide.deletion import REASON, find_prefix
from easel_operator.handlers.cleanup import Cleanup
from easel_operator.handlers.service_store import ServiceStore
from easel_operator.objects import NAMESPACES, SERVICES_OF_EASEL, Json, ServiceKey
from easel_server.stores.jobs.interface import JobBounds, ServiceClosingError
from easel_server.stores.jobs.reaper import reap_forever
from easel_server.stores.opening import Stores, open_stores

from tests.operator.fake_api import FakeApi
from tests.operator.objects import NOW, OWNER, build_pod, build_service
from tests.support.eventually import eventually
from tests.support.jobs import build_job
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis

PATH = SERVICES_OF_EASEL.path(OWNER.namespace, OWNER.name)
LOOK_SECONDS = 0.05


class Bench:
    """A cleanup with everything around it; each has a service, and a cluster, of its own."""

    def __init__(self, url: str) -> None:
        self.owner = replace(OWNER, uid=str(uuid.uuid4()))
        self.cluster_uid = str(uuid.uuid4())
        self.api = FakeApi()
        self.api.store(NAMESPACES.path(None, "kube-system"), {"metadata": {"uid": self.cluster_uid}})
        self.services = ServiceStore(on_change=lambda _key: None)
        self.children = ObjectStore(on_change=lambda _key: None)
        self.keys = ServiceKeys(url)
        self.cleanup = Cleanup(
            client=self.api,
            writer=ClusterWriter(self.api, self.children, pod_name="operator-a", clock=lambda: NOW),
            services=self.services,
            children=self.children,
            keys=self.keys,
            look_seconds=LOOK_SECONDS,
        )
        service = build_service()
        service["metadata"] |= {"uid": self.owner.uid}
        self.services.put(self.api.store(PATH, service))
        self.stores = self.open_stores(url, self.owner.uid)

    def open_stores(self, url: str, uid: str) -> Stores:
        """What a pod of the service has open."""
        return open_stores(url, namespace=OWNER.namespace, service=OWNER.name, uid=uid, bounds=JobBounds())

    @property
    def prefix(self) -> str:
        return redis_prefix(self.owner.namespace, self.owner.name, self.owner.uid)

    @property
    def events(self) -> list[Json]:
        return [body for path, body in self.api.objects.items() if "/events/" in path]

    def delete(self) -> None:
        """As ``kubectl delete`` does, and the watch says so."""
        self.services.observe("DELETED", self.api.objects.pop(PATH))

    async def is_seen(self) -> bool:
        return self.prefix in self.cleanup._seen

    def add_pod(self) -> None:
        self.children.put({"kind": "Pod", **build_pod(names.COMPONENT_GATEWAY)})

    async def is_ended(self) -> bool:
        return self.prefix not in self.cleanup._seen

    @asynccontextmanager
    async def running(self, *, gateway: bool) -> AsyncIterator[None]:
        """The cleanup, and perhaps what of a gateway ends jobs."""
        tasks = [asyncio.create_task(self.cleanup.run())]
        if gateway:
            self.add_pod()
            reaping = reap_forever(
                self.stores.jobs, self.stores.ping, list, grace_seconds=1, period_seconds=LOOK_SECONDS
            )
            tasks.append(asyncio.create_task(reaping))
        await eventually(self.is_seen)
        try:
            yield
        finally:
            assert not any(task.done() for task in tasks), "they run for ever"
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    @asynccontextmanager
    async def restarted(self, url: str) -> AsyncIterator[None]:
        """Another operator's cleanup, which knows what the cluster and Redis say."""
        self.cleanup = Cleanup(
            client=self.api,
            writer=ClusterWriter(self.api, self.children, pod_name="operator-b", clock=lambda: NOW),
            services=self.services,
            children=self.children,
            keys=ServiceKeys(url),
            look_seconds=LOOK_SECONDS,
        )
        running = asyncio.create_task(self.cleanup.run())
        try:
            yield
        finally:
            running.cancel()
            await asyncio.wait([running])
            await self.cleanup._keys.close()

    async def close(self) -> None:
        await self.stores.close()
        await self.keys.close()


@pytest.fixture
async def bench(redis_server: RedisServer) -> AsyncIterator[Bench]:
    bench = Bench(redis_server.url)
    yield bench
    await bench.close()


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


async def keys_of(bench: Bench) -> set[str]:
    """What is stored under the service's prefix, without it."""
    client = await bench.keys._find_home()
    return {key.decode().removeprefix(bench.prefix) async for key in client.scan_iter(f"{bench.prefix}*", count=1000)}


async def test_waiters_hear_that_the_service_was_deleted_and_then_its_keys_are_gone(bench: Bench) -> None:
    jobs = bench.stores.jobs
    for number in range(3):
        await jobs.submit(build_job(f"j{number}", owner=f"team-{number}"))
    waiting = [asyncio.create_task(jobs.wait(f"j{number}", 20)) for number in range(3)]
    async with bench.running(gateway=True):
        bench.delete()
        assert [ended.error for task in waiting if (ended := await task)] == [REASON] * 3
        with pytest.raises(ServiceClosingError):
            await jobs.submit(build_job("new"))
        await eventually(bench.is_ended)
    assert await keys_of(bench) - {"closing"} == set()
    assert [event["reason"] for event in bench.events] == ["CleanedUp"]


async def test_the_next_service_of_that_name_sees_nothing(bench: Bench, redis_server: RedisServer) -> None:
    await bench.stores.jobs.submit(build_job("a"))
    async with bench.running(gateway=False):
        bench.delete()
        await eventually(bench.is_ended)
    following = bench.open_stores(redis_server.url, str(uuid.uuid4()))
    try:
        assert (await following.jobs.submit(build_job("a"))).created
        assert (await following.jobs.depth()).waiting == 1
    finally:
        await following.close()


async def test_without_pods_nobody_is_waited_for(bench: Bench) -> None:
    await bench.stores.jobs.submit(build_job("a"))
    async with bench.running(gateway=False):
        bench.delete()
        await eventually(bench.is_ended, timeout_seconds=5)
    assert "1 waiting" in bench.events[0]["note"]


async def test_what_a_redis_that_is_gone_kept_is_deleted_when_it_is_back(
    own_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletion, "UNREACHABLE_SECONDS", 0.5)
    bench = Bench(own_server.url)
    try:
        async with bench.running(gateway=False):
            await eventually(lambda: is_registered(bench))
            await bench.stores.jobs.submit(build_job("a"))
            own_server.kill()
            bench.delete()
            await eventually(bench.is_ended, timeout_seconds=20)
        (event,) = bench.events
        assert (event["reason"], event["type"]) == ("CleanupIncomplete", "Warning")
        assert bench.prefix in event["note"]
        own_server.start()  # with what it had
        async with bench.restarted(own_server.url):
            await eventually(lambda: is_swept(bench, bench.prefix), timeout_seconds=20)
    finally:
        await bench.close()


async def test_a_service_that_is_deleted_while_no_operator_runs_leaves_nothing_and_its_waiters_hear(
    bench: Bench, redis_server: RedisServer
) -> None:
    jobs = bench.stores.jobs
    async with bench.running(gateway=False):
        await eventually(lambda: is_registered(bench))
    await jobs.submit(build_job("a"))
    bench.delete()  # nothing keeps it
    waiting = asyncio.create_task(jobs.wait("a", 20))
    reaping = asyncio.create_task(reap_forever(jobs, bench.stores.ping, list, grace_seconds=1, period_seconds=0.05))
    bench.add_pod()  # in its grace period
    async with bench.restarted(redis_server.url):
        ended = await waiting
        assert ended is not None
        assert ended.error == REASON
        await eventually(lambda: is_swept(bench, bench.prefix))
    reaping.cancel()
    assert await keys_of(bench) == set()
    assert [event["reason"] for event in bench.events] == ["CleanedUp"], "once, whoever looks again"


async def test_an_operator_that_is_killed_while_a_service_ends_is_followed_by_one_that_ends_it(
    bench: Bench, redis_server: RedisServer
) -> None:
    await bench.stores.jobs.submit(build_job("a"))
    async with bench.running(gateway=False):
        await eventually(lambda: is_registered(bench))
        bench.add_pod()  # which ends no job, so that the end takes its time
        bench.delete()
        await eventually(lambda: is_closing(bench))
    bench.children.remove(next(iter(bench.children.of(ServiceKey(OWNER.namespace, OWNER.name)))))
    async with bench.restarted(redis_server.url):
        await eventually(lambda: is_swept(bench, bench.prefix))
    assert await keys_of(bench) == set()


async def is_closing(bench: Bench) -> bool:
    return "closing" in await keys_of(bench)


async def is_registered(bench: Bench) -> bool:
    return bench.prefix in await bench.keys.read_registry(bench.cluster_uid)


async def is_swept(bench: Bench, prefix: str) -> bool:
    await bench.cleanup.sweep(bench.cluster_uid)
    return prefix not in await bench.keys.read_registry(bench.cluster_uid)


async def test_a_full_redis_can_be_cleaned_up(own_server: RedisServer) -> None:
    bench = Bench(own_server.url)
    try:
        await bench.stores.jobs.submit(build_job("a"))
        own_server.command("CONFIG", "SET", "maxmemory", "1")
        async with bench.running(gateway=False):
            bench.delete()
            await eventually(bench.is_ended, timeout_seconds=10)
        assert await keys_of(bench) - {"closing"} == set()
    finally:
        await bench.close()


async def test_a_service_lives_on_and_another_clusters_are_never_swept(bench: Bench) -> None:
    await bench.stores.jobs.submit(build_job("a"))
    stranger = find_prefix({"metadata": {"namespace": "studio", "name": "painter", "uid": "theirs"}})
    other_cluster = str(uuid.uuid4())
    await bench.keys.register(other_cluster, {stranger: "studio/painter"})
    await bench.keys.register(bench.cluster_uid, {bench.prefix: "studio/painter"})
    await bench.cleanup.sweep(bench.cluster_uid)
    assert await bench.stores.jobs.get("a") is not None
    assert stranger in await bench.keys.read_registry(other_cluster)


async def test_the_watch_being_behind_costs_no_service_its_jobs(bench: Bench) -> None:
    await bench.stores.jobs.submit(build_job("a"))
    await bench.keys.register(bench.cluster_uid, {bench.prefix: "studio/painter"})
    bench.services.forget(next(key for key, _ in bench.services))  # though the API server has it
    await bench.cleanup.sweep(bench.cluster_uid)
    assert await bench.stores.jobs.get("a") is not None


async def test_a_registry_that_redis_lost_is_written_anew(bench: Bench) -> None:
    async with bench.running(gateway=False):
        await eventually(lambda: is_registered(bench))
        await bench.keys.forget(bench.cluster_uid, bench.prefix)
        await bench.cleanup.sweep(bench.cluster_uid)  # as every few minutes
        await eventually(lambda: is_registered(bench))


async def test_a_prefix_is_taken_literally(bench: Bench) -> None:
    """A name can't hold them, but a pattern that isn't escaped would delete other services' keys."""
    client = await bench.keys._find_home()
    await client.set("easel:{a/b[12]/u}:x", "1")
    await client.set("easel:{a/b1/u}:x", "1")
    assert await bench.keys.delete_keys("easel:{a/b[12]/u}:") == 1
    assert await client.get("easel:{a/b1/u}:x") == b"1"
