"""The two brokers. That a cluster of Redis keeps the same promises is the broker's own tests' matter."""

import uuid
from collections.abc import AsyncIterator

import pytest
from easel_server.stores.interface import Broker
from easel_server.stores.jobs.interface import BrokerSettings
from easel_server.stores.memory import MemoryBroker
from easel_server.stores.redis_broker import RedisBroker

from tests.inference_server.stores.conftest import BuildBroker


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
async def build_broker(request: pytest.FixtureRequest) -> AsyncIterator[BuildBroker]:
    """Makes a broker with settings."""
    made: list[Broker] = []

    def build(settings: BrokerSettings) -> Broker:
        if request.param == "memory":
            made.append(MemoryBroker(settings))
        else:
            url = request.getfixturevalue("redis_server").url
            made.append(RedisBroker.from_url(url, namespace=uuid.uuid4().hex, service="sd", settings=settings))
        return made[-1]

    yield build
    for broker in made:
        await broker.close()


@pytest.fixture
def broker(build_broker: BuildBroker) -> Broker:
    return build_broker(BrokerSettings())
