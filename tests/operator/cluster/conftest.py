"""A client of the API server that a module's own ``api_server`` is, and one of one release for modules without."""

from collections.abc import AsyncIterator, Iterator

import pytest
from easel_operator.cluster.client import KubernetesClient
from kubernetes.aio.client import Configuration

from tests.support.api_server import ApiServers


@pytest.fixture(scope="module")
def api_server() -> Iterator[Configuration]:
    with ApiServers() as servers:
        yield servers.start("1.34")


@pytest.fixture
async def client(api_server: Configuration) -> AsyncIterator[KubernetesClient]:
    made = KubernetesClient(api_server)
    yield made
    await made.close()
