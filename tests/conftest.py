"""Fixtures that many folders share."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support.redis_server import RedisServer
from tests.support.s3_server import S3Server

pytest_plugins = ["tests.distribution"]

# The same examples in each run, so that a change is judged by what it does. EASEL_HYPOTHESIS=explore finds new ones.
settings.register_profile("repeat", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("EASEL_HYPOTHESIS", "repeat"))


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One server for the whole run; give each test its own namespace. Tests that kill it start their own."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One for the whole run; give each test its own prefix or keys."""
    with S3Server() as server:
        yield server
