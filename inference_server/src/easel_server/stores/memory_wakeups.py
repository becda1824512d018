"""What the stores of one process share: their clock, and waking who sleeps until something has changed."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, TypeVar

LOOK_AGAIN_SECONDS: Final = 1.0  # a bound on sleeps for what only the clock makes due

Clock = Callable[[], datetime]

T = TypeVar("T")


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


class MemoryWakeups:
    """Wakes everybody who sleeps, whatever has changed: looking again costs them little."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Something has changed."""
        self._event.set()
        self._event = asyncio.Event()

    async def sleep(self, seconds: float = LOOK_AGAIN_SECONDS) -> None:
        """Until something has changed, or the time is up."""
        # Not wait_for: until Python 3.12 it loses a cancellation that arrives together with the event.
        with suppress(TimeoutError):
            async with asyncio.timeout(min(seconds, LOOK_AGAIN_SECONDS)):
                await self._event.wait()

    async def wait_for(self, attempt: Callable[[], T | None], wait_seconds: float) -> T | None:
        """What ``attempt`` finds, as soon as it finds something; None when the time is up."""
        loop = asyncio.get_running_loop()
        stop_at = loop.time() + wait_seconds
        while True:
            found = attempt()
            left_seconds = stop_at - loop.time()
            if found is not None or left_seconds <= 0:
                return found
            await self.sleep(left_seconds)
