"""One gateway for the tests that need nothing special."""

from collections.abc import Iterator

import httpx2
import pytest
from replicate.client import Client

from tests.inference_server.api.serving import RunningGateway


@pytest.fixture(scope="session")
def shared_gateway() -> Iterator[RunningGateway]:
    with RunningGateway() as gateway:
        yield gateway


@pytest.fixture
def gateway(shared_gateway: RunningGateway) -> Iterator[RunningGateway]:
    yield shared_gateway
    shared_gateway.do(shared_gateway.worker.reset)


@pytest.fixture
def client(gateway: RunningGateway) -> Iterator[httpx2.Client]:
    with gateway.client() as client:
        yield client


@pytest.fixture
def replicate(gateway: RunningGateway) -> Iterator[Client]:
    """Replicate's own client, which has no way to be closed."""
    client = Client(api_token="any", base_url=gateway.url)
    yield client
    client._client.close()
