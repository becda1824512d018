"""Keeps the claims of a batch alive while it is drawn and reported; carries progress and previews, brings replies."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.jobs.interface import HeartbeatReply, JobQueue
from easel_server.worker.batch import Batch, JobRun
from easel_server.worker.broker_link import BrokerLink
from easel_server.worker.outcomes import StopReason

STOP_REASONS: Final = {
    HeartbeatReply.CANCEL: StopReason.CANCEL,
    HeartbeatReply.DEADLINE_PASSED: StopReason.DEADLINE_PASSED,
    HeartbeatReply.LOST: StopReason.LOST,
}


class Heartbeats:
    """One set for each batch; ``run`` it until ``end``."""

    def __init__(
        self,
        broker: JobQueue,
        link: BrokerLink,
        *,
        period_seconds: float,
        on_stopped: Callable[[JobRun], None],
    ) -> None:
        """``on_stopped`` is called for a job that the broker no longer wants drawn; it must not block."""
        self._broker = broker
        self._link = link
        self._period_seconds = period_seconds
        self._on_stopped = on_stopped
        self._hurry = asyncio.Event()
        self._round = asyncio.Lock()
        self._is_over = False

    def hurry(self) -> None:
        """Beat now: there is something to tell."""
        self._hurry.set()

    def end(self) -> None:
        """Let ``run`` return."""
        self._is_over = True
        self._hurry.set()

    async def run(self, batch: Batch) -> None:
        """Beat every period, and at once when there is something to tell."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), self._period_seconds)
            self._hurry.clear()
            if self._is_over:
                return
            await self._beat_all([job for job in batch.jobs if not job.is_settled])

    async def flush(self, batch: Batch) -> None:
        """Tell what is left to tell, before the jobs are final."""
        await self._beat_all([job for job in batch.jobs if job.unsent_previews and not job.is_settled])

    async def _beat_all(self, jobs: Sequence[JobRun]) -> None:
        async with self._round:  # so that a flush waits for previews that are on their way
            await asyncio.gather(*(self._beat(job) for job in jobs))

    async def _beat(self, job: JobRun) -> None:
        previews = tuple(job.unsent_previews)
        try:
            reply = await self._broker.heartbeat(job.claim, job.steps_done, previews=previews)
        except StoreUnavailableError as error:
            self._link.note_outage(error)
            return
        self._link.note_return()
        for _ in previews:
            job.unsent_previews.popleft()
        if reply in STOP_REASONS and not job.is_settling:
            job.stop(STOP_REASONS[reply])
            self._on_stopped(job)
