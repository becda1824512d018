"""The end of a worker's work, on SIGTERM: no further job from its start on, a bound on the time for those in hand.

What isn't generated when that time is up is released: it goes back to the head of the queue, its attempt uncounted.
"""

import asyncio
import logging

from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.jobs.interface import Claim, JobQueue

logger = logging.getLogger(__name__)


class Drain:
    """Started once, at most. Make it in a running event loop."""

    def __init__(self, limit_seconds: float) -> None:
        self.is_started = False  # no further job may be taken
        self.time_is_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._limit_seconds = limit_seconds

    def start(self) -> None:
        """Begin. Made for a signal handler; later calls change nothing."""
        if self.is_started:
            return
        logger.info("draining for at most %g s", self._limit_seconds)
        self.is_started = True
        self.time_is_up.get_loop().call_later(self._limit_seconds, self.time_is_up.set_result, None)

    async def pause(self, seconds: float) -> None:
        """Sleep, and not beyond the end."""
        await asyncio.wait({self.time_is_up}, timeout=seconds)


async def release(queue: JobQueue, claim: Claim) -> None:
    """Release a claim, so that another worker can take the job at once."""
    try:
        await queue.release(claim)
        logger.info("job %s: released to the head of the queue", claim.job.id)
    except StoreUnavailableError as error:
        logger.warning("job %s: not released, its lease will run out: %s", claim.job.id, error)
