"""Time that moves when a test says so, for stores in memory and for scripts on Redis alike."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from easel_server.stores.jobs.redis import RedisJobs
from easel_server.stores.redis import scripts
from easel_server.stores.redis.connection import MICROSECONDS, RedisConnection

KEY = "clock"
SERVER_TIME = "redis.call('TIME')"
TEST_TIME = f"{{ redis.call('GET', key('{KEY}')), 0 }}"  # in seconds


class MovableClock:
    """Give it to stores in memory; scripts on Redis follow it while it is ``shown`` to them.

    What Redis lets expire by itself still goes by its own time.
    """

    def __init__(self) -> None:
        self._now = datetime.now(UTC).replace(microsecond=0)
        self._connections: list[RedisConnection] = []

    def __call__(self) -> datetime:
        return self._now

    @contextmanager
    def shown(self, *stores: RedisJobs) -> Iterator[None]:
        """Scripts that are run meanwhile read the time that this clock has set."""
        self._connections = [jobs._connection for jobs in stores]
        read = scripts._read_lua

        def read_with_clock(name: str) -> str:
            source = read(name)
            if name == scripts.SHARED_PART:
                assert source.count(SERVER_TIME) == 1
            return source.replace(SERVER_TIME, TEST_TIME)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scripts, "_read_lua", read_with_clock)
            scripts.load_script.cache_clear()
            yield
        scripts.load_script.cache_clear()

    async def move(self, seconds: float = 0.0) -> None:
        """Let time go by; call it once before anything else, so that Redis knows the time."""
        self._now += timedelta(seconds=seconds)
        text = repr(round(self._now.timestamp() * MICROSECONDS) / MICROSECONDS)
        for connection in self._connections:
            await connection.command("SET", connection.key(KEY), text)

    async def hide(self) -> None:
        """Leave nothing of it on Redis."""
        for connection in self._connections:
            await connection.command("DEL", connection.key(KEY))
