"""The two brokers, each with the settings that a test asks for."""

import uuid
from collections.abc import AsyncIterator, Callable

import pytest
from easel_server.broker.interface import Broker, BrokerSettings
from easel_server.broker.memory import MemoryBroker
from easel_server.broker.redis import RedisBroker

BuildBroker = Callable[[BrokerSettings], Broker]


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
async def build_broker(request: pytest.FixtureRequest) -> AsyncIterator[BuildBroker]:
    """Brokers of one service; those of Redis share their state, as gateways and workers do."""
    made: list[Broker] = []
    namespace = uuid.uuid4().hex

    def build(settings: BrokerSettings) -> Broker:
        if request.param == "memory":
            made.append(MemoryBroker(settings))
        else:
            url = request.getfixturevalue("redis_server").url
            made.append(RedisBroker.from_url(url, namespace=namespace, service="sd", settings=settings))
        return made[-1]

    yield build
    for broker in made:
        await broker.close()


@pytest.fixture
def broker(build_broker: BuildBroker) -> Broker:
    return build_broker(BrokerSettings())
