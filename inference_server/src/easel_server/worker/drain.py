"""The end of a worker's work, on SIGTERM: no further job from its start on, a bound on the time for those in hand.

What isn't generated when that time is up, or won't be by then, is released: it goes back to the head of the queue, its
attempt uncounted, with what the next worker goes on from.
"""

import asyncio
import logging

from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.jobs.interface import JobQueue
from easel_server.worker.job_run import JobRun

logger = logging.getLogger(__name__)


class Drain:
    """Started once, at most. Make it in a running event loop."""

    def __init__(self, limit_seconds: float) -> None:
        self.is_started = False  # no further job may be taken
        self.time_is_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._limit_seconds = limit_seconds
        self._ends_at_seconds = 0.0

    def start(self) -> None:
        """Begin. Made for a signal handler; later calls change nothing."""
        if self.is_started:
            return
        logger.info("draining for at most %g s", self._limit_seconds)
        self.is_started = True
        loop = self.time_is_up.get_loop()
        self._ends_at_seconds = loop.time() + self._limit_seconds
        loop.call_later(self._limit_seconds, self.cut_short)

    def cut_short(self) -> None:
        """The time is up now: there is nothing to wait for."""
        if not self.time_is_up.done():
            self.time_is_up.set_result(None)

    @property
    def seconds_left(self) -> float:
        """Once it has begun."""
        return self._ends_at_seconds - self.time_is_up.get_loop().time()

    async def pause(self, seconds: float) -> None:
        """Sleep, and not beyond the end."""
        await asyncio.wait({self.time_is_up}, timeout=seconds)


async def release(queue: JobQueue, run: JobRun) -> None:
    """Release a claim, so that another worker can take the job at once, and go on from where it is."""
    checkpoint = run.checkpoint
    try:
        await queue.release(run.claim, checkpoint=checkpoint, steps_done=run.steps_done, gpu_seconds=run.gpu_seconds)
    except StoreUnavailableError as error:
        logger.warning("job %s: not released, its lease will run out: %s", run.job.id, error)
        return
    where = f"after {run.steps_done} steps" if checkpoint else "to begin anew"
    logger.info("job %s: released to the head of the queue, %s", run.job.id, where)
