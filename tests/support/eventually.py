"""Bounded waits on conditions, in place of sleeps."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

TIMEOUT_SECONDS = 60.0  # on a machine that much else runs on too
POLL_SECONDS = 0.01


async def eventually(condition: Callable[[], Awaitable[T]], timeout_seconds: float = TIMEOUT_SECONDS) -> T:
    """The first truthy value of ``condition``; fails with the last value seen."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + timeout_seconds
    while True:
        value = await condition()
        if value:
            return value
        assert loop.time() < give_up_at, f"still {value!r} after {timeout_seconds:g} s"
        await asyncio.sleep(POLL_SECONDS)
