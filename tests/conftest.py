"""Fixtures that many folders share."""

from collections.abc import Iterator

import pytest

from tests.support.redis_server import RedisServer


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One server for the whole run; give each test its own namespace. Tests that kill it start their own."""
    with RedisServer() as server:
        yield server
