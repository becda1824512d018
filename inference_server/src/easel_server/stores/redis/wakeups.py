"""Sleeping until there is something to take: scripts push to a list, which is popped from with a time-out."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.redis.connection import RedisConnection

BLOCK_SECONDS: Final = 1.0  # one blocking pop; a wake-up that got lost with its receiver costs no more than this
RETRY_SECONDS: Final = 0.25  # while the server is away

T = TypeVar("T")


async def wait_for(
    connection: RedisConnection, wakeups: Sequence[str], attempt: Callable[[], Awaitable[T | None]], wait_seconds: float
) -> T | None:
    """What ``attempt`` finds; sleeps on the lists ``wakeups`` in between, through outages, until the time is up.

    Raises StoreUnavailableError if the server is away at the end.
    """
    loop = asyncio.get_running_loop()
    stop_at = loop.time() + wait_seconds
    while True:
        try:
            found = await attempt()
            left_seconds = stop_at - loop.time()
            if found is not None or left_seconds <= 0:
                return found
            pause_seconds = max(0.01, min(left_seconds, BLOCK_SECONDS))  # 0 would block for ever
            await connection.blocking_command("BLPOP", *map(connection.key, wakeups), pause_seconds)
        except StoreUnavailableError:
            if loop.time() + RETRY_SECONDS >= stop_at:
                raise
            await asyncio.sleep(RETRY_SECONDS)
