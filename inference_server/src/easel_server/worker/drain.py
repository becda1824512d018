"""The end of a worker's work: no further job from its start on, and a bound on the time for those in hand."""

import asyncio
import logging

logger = logging.getLogger(__name__)


class Drain:
    """Started once, at most; all times are the event loop's."""

    def __init__(self, limit_seconds: float) -> None:
        self._limit_seconds = limit_seconds
        self._started = asyncio.Event()
        self._ends_at = float("inf")

    def start(self) -> None:
        """Begin. Made for a signal handler; later calls change nothing."""
        if self._started.is_set():
            return
        logger.info("draining for at most %g s", self._limit_seconds)
        self._ends_at = asyncio.get_running_loop().time() + self._limit_seconds
        self._started.set()

    @property
    def is_started(self) -> bool:
        """Whether no further job may be taken."""
        return self._started.is_set()

    @property
    def left_seconds(self) -> float:
        """Time that jobs in hand still have; infinite before the start."""
        return max(0.0, self._ends_at - asyncio.get_running_loop().time())

    async def wait(self) -> None:
        """Until it starts."""
        await self._started.wait()

    async def pause(self, seconds: float) -> None:
        """Sleep, and not beyond the end."""
        await asyncio.sleep(min(seconds, self.left_seconds))
