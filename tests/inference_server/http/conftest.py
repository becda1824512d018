"""One gateway for the tests that need nothing special."""

from collections.abc import Iterator

import httpx
import pytest

from tests.inference_server.http.serving import RunningGateway


@pytest.fixture(scope="session")
def shared_gateway() -> Iterator[RunningGateway]:
    with RunningGateway() as gateway:
        yield gateway


@pytest.fixture
def gateway(shared_gateway: RunningGateway) -> Iterator[RunningGateway]:
    yield shared_gateway
    shared_gateway.do(shared_gateway.worker.reset)


@pytest.fixture
def client(gateway: RunningGateway) -> Iterator[httpx.Client]:
    with gateway.client() as client:
        yield client
