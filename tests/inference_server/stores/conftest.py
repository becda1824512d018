"""The stores in memory, on Redis and on a cluster of Redis, each with the bounds that a test asks for."""

import itertools
import uuid
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from easel_server.stores.jobs.interface import JobBounds, Jobs
from easel_server.stores.opening import DEFAULT_CACHE_BYTES, Stores, open_stores

from tests.support.redis_cluster import RedisCluster

BuildStores = Callable[..., Stores]


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
async def build_stores(request: pytest.FixtureRequest) -> AsyncIterator[BuildStores]:
    """Stores of one service; those on Redis share their state, as those of gateways and workers do."""
    made: list[Stores] = []
    namespace = uuid.uuid4().hex
    urls: Iterator[str | None] = itertools.repeat(None)
    if request.param == "redis":
        urls = itertools.repeat(request.getfixturevalue("redis_server").url)
    elif request.param == "redis-cluster":
        urls = itertools.cycle(request.getfixturevalue("redis_cluster").urls)  # most have to be redirected

    def build(bounds: JobBounds | None = None, max_cache_bytes: int = DEFAULT_CACHE_BYTES) -> Stores:
        stores = open_stores(
            next(urls),
            namespace=namespace,
            service="sd",
            bounds=bounds or JobBounds(),
            max_cache_bytes=max_cache_bytes,
        )
        made.append(stores)
        return stores

    yield build
    for stores in made:
        await stores.close()


@pytest.fixture
def stores(build_stores: BuildStores) -> Stores:
    return build_stores()


@pytest.fixture
def jobs(stores: Stores) -> Jobs:
    return stores.jobs
