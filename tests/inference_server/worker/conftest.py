"""The job store in memory and on Redis. That a cluster of Redis keeps the same promises is its own tests' matter."""

import uuid
from collections.abc import AsyncIterator

import pytest
from easel_server.stores.jobs.interface import JobBounds, Jobs
from easel_server.stores.opening import Stores, open_stores

from tests.inference_server.stores.conftest import BuildStores


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
async def build_stores(request: pytest.FixtureRequest) -> AsyncIterator[BuildStores]:
    """Makes stores with bounds."""
    made: list[Stores] = []

    def build(bounds: JobBounds | None = None) -> Stores:
        url = None if request.param == "memory" else request.getfixturevalue("redis_server").url
        made.append(open_stores(url, namespace=uuid.uuid4().hex, service="sd", bounds=bounds or JobBounds()))
        return made[-1]

    yield build
    for stores in made:
        await stores.close()


@pytest.fixture
def store(build_stores: BuildStores) -> Jobs:
    return build_stores().jobs
