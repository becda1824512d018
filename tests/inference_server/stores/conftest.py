"""The brokers, each with the settings that a test asks for."""

import itertools
import uuid
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from easel_server.stores.interface import Broker
from easel_server.stores.jobs.interface import BrokerSettings
from easel_server.stores.memory import MemoryBroker
from easel_server.stores.redis_broker import RedisBroker

from tests.support.redis_cluster import RedisCluster

BuildBroker = Callable[[BrokerSettings], Broker]


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[RedisCluster]:
    """One cluster for the whole run; give each test its own namespace."""
    with RedisCluster() as cluster:
        yield cluster


@pytest.fixture(
    params=[
        "memory",
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("redis-cluster", marks=pytest.mark.redis),
    ]
)
async def build_broker(request: pytest.FixtureRequest) -> AsyncIterator[BuildBroker]:
    """Brokers of one service; those of Redis share their state, as gateways and workers do."""
    made: list[Broker] = []
    namespace = uuid.uuid4().hex
    urls: Iterator[str] = iter(())
    if request.param == "redis":
        urls = itertools.repeat(request.getfixturevalue("redis_server").url)
    elif request.param == "redis-cluster":
        urls = itertools.cycle(request.getfixturevalue("redis_cluster").urls)  # most have to be redirected

    def build(settings: BrokerSettings) -> Broker:
        if request.param == "memory":
            made.append(MemoryBroker(settings))
        else:
            made.append(RedisBroker.from_url(next(urls), namespace=namespace, service="sd", settings=settings))
        return made[-1]

    yield build
    for broker in made:
        await broker.close()


@pytest.fixture
def broker(build_broker: BuildBroker) -> Broker:
    return build_broker(BrokerSettings())
