"""Memory, files and replicas of real servers, as the operator's page of metrics has them."""

from collections.abc import AsyncIterator, Iterator

import pytest
from easel_operator.cluster.redis.figures import PREFIX, RedisFigures
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis, exceptions

from tests.support.eventually import eventually
from tests.support.redis_sentinels import ReplicatedRedis
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis

MIB = 1024 * 1024


def fill(redis: Redis) -> None:
    """Raises OutOfMemoryError."""
    for number in range(100):
        redis.set(f"key-{number}", b"x" * 100_000)


class Page:
    """What Prometheus would read."""

    def __init__(self) -> None:
        self.figures = RedisFigures()
        self._registry = CollectorRegistry()
        self._registry.register(self.figures)

    def read(self, name: str) -> dict[str, float]:
        """The values of a metric by server."""
        return {
            sample.labels["server"]: sample.value
            for family in text_string_to_metric_families(generate_latest(self._registry).decode())
            for sample in family.samples
            if sample.name == PREFIX + name
        }

    async def look(self, url: str, name: str) -> float:
        """Of the only server."""
        await self.figures.look(url)
        (value,) = self.read(name).values()
        return value


@pytest.fixture
def page() -> Page:
    return Page()


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer("--maxmemory", "4mb") as started:
        yield started


@pytest.fixture
async def replicated() -> AsyncIterator[ReplicatedRedis]:
    with ReplicatedRedis() as started:
        yield started


async def test_the_memory_of_a_server_is_a_figure_as_it_fills_until_it_refuses(page: Page, server: RedisServer) -> None:
    assert await page.look(server.url, "max_memory_bytes") == 4 * MIB
    used = await page.look(server.url, "memory_bytes")
    assert 0 < used < 0.9 * 4 * MIB
    with Redis.from_url(server.url) as redis, pytest.raises(exceptions.OutOfMemoryError):
        fill(redis)
    assert await page.look(server.url, "memory_bytes") > 0.9 * 4 * MIB
    assert page.read("up") == {f"127.0.0.1:{server.port}": 1}


async def test_a_server_that_cannot_write_its_snapshot_says_so_until_it_can_again(
    page: Page, server: RedisServer
) -> None:
    assert await page.look(server.url, "persistence_failed") == 0
    assert page.read("append_only") == {f"127.0.0.1:{server.port}": 1}
    blocked = server.directory / "dump.rdb"
    blocked.mkdir()  # no snapshot can be put there
    with Redis.from_url(server.url) as redis:
        redis.bgsave()

        async def has_failed() -> bool:
            return await page.look(server.url, "persistence_failed") == 1

        await eventually(has_failed)
        before = await page.look(server.url, "last_save_timestamp_seconds")
        blocked.rmdir()
        redis.bgsave()

        async def is_well() -> bool:
            return await page.look(server.url, "persistence_failed") == 0

        await eventually(is_well)
        assert await page.look(server.url, "last_save_timestamp_seconds") >= before


async def test_a_server_that_is_away_has_no_figure_but_that_and_comes_back(page: Page, server: RedisServer) -> None:
    assert await page.look(server.url, "up") == 1
    server.kill()
    assert await page.look(server.url, "up") == 0
    assert page.read("memory_bytes") == page.read("replicas") == {}
    server.start()
    assert await page.look(server.url, "up") == 1
    assert page.read("memory_bytes")


async def test_a_user_who_may_not_ask_leaves_the_server_without_figures(page: Page, server: RedisServer) -> None:
    with Redis.from_url(server.url) as redis:
        redis.acl_setuser("modest", enabled=True, passwords=["+secret"], commands=["+ping"])
    url = server.url.replace("redis://", "redis://modest:secret@")
    assert await page.look(url, "up") == 1
    assert page.read("memory_bytes") == {}


async def test_master_and_replica_are_known_apart_without_their_passwords_and_change_places(
    page: Page, replicated: ReplicatedRedis
) -> None:
    master, replica = (f"127.0.0.1:{server.port}" for server in replicated.servers)
    await page.figures.look(replicated.url)
    assert page.read("is_master") == {master: 1, replica: 0}
    assert page.read("replicas") == {master: 1}
    assert page.read("replication_lag_seconds").keys() == {master}
    replicated.fail_over()

    async def have_changed_places() -> bool:
        await page.figures.look(replicated.url)
        return page.read("is_master") == {master: 0, replica: 1}

    await eventually(have_changed_places, timeout_seconds=30)


async def test_sentinels_that_are_all_away_leave_the_servers_known_as_away(
    page: Page, replicated: ReplicatedRedis
) -> None:
    await page.figures.look(replicated.url)
    for number in range(3):
        replicated.kill_sentinel(number)
    await page.figures.look(replicated.url)
    assert set(page.read("up").values()) == {0}
    assert len(page.read("up")) == 2
