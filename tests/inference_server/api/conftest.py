"""Fixtures of the APIs' tests."""

from collections.abc import Iterator

import pytest

from tests.inference_server.api.input_hosts import Host
from tests.inference_server.api.serving import RunningGateway


@pytest.fixture
def host(gateway: RunningGateway) -> Iterator[Host]:
    one = Host(gateway)
    yield one
    one.close()
