"""Keeps the claims of a batch alive while it is generated and reported; carries progress and previews.

What the job store answers ends jobs early: those that were cancelled, are too late, or are another worker's by now.
A heartbeat that fails unforeseen is sent again with the next round. A job whose heartbeats go on failing so for as long
as its lease is stopped: another worker may have it by then, and its result would be refused. An outage of the store is
something else: then no lease is held against anybody.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.jobs.interface import HeartbeatReply, JobQueue
from easel_server.telemetry.supervision import TaskMetrics, note_failure
from easel_server.worker.batch import Batch, JobRun, StopReason

logger = logging.getLogger(__name__)

TASK: Final = "heartbeats"

STOP_REASONS: Final = {
    HeartbeatReply.CANCEL: StopReason.CANCEL,
    HeartbeatReply.DEADLINE_PASSED: StopReason.DEADLINE_PASSED,
    HeartbeatReply.LOST: StopReason.LOST,
}


class OutageLog:
    """Says once that the job store is away and once that it is back, whichever call of a worker notices."""

    def __init__(self) -> None:
        self._is_away = False

    def note_outage(self, error: StoreUnavailableError) -> None:
        """A call failed."""
        if not self._is_away:
            logger.warning("%s", error)
        self._is_away = True

    def note_answer(self) -> None:
        """A call was answered."""
        if self._is_away:
            logger.info("the job store is back")
        self._is_away = False


class Heartbeats:
    """Those of one batch; ``run`` them until ``end``."""

    def __init__(
        self,
        queue: JobQueue,
        outages: OutageLog,
        batch: Batch,
        metrics: TaskMetrics,
        *,
        period_seconds: float,
        on_stopped: Callable[[Batch, JobRun], None],
    ) -> None:
        """``on_stopped`` is called for a job that the store no longer wants generated; it must not block."""
        self._queue = queue
        self._outages = outages
        self._batch = batch
        self._metrics = metrics
        self._period_seconds = period_seconds
        self._heard_at_seconds = dict.fromkeys(batch.runs, time.monotonic())  # when the store last had a sign of each
        self._on_stopped = on_stopped
        self._round = asyncio.Lock()
        self._is_over = False

    def end(self) -> None:
        """Let ``run`` return."""
        self._is_over = True
        self._batch.is_report_due.set()

    async def run(self) -> None:
        """Beat every period, and at once when there is a preview to send."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._batch.is_report_due.wait(), self._period_seconds)
            self._batch.is_report_due.clear()
            if self._is_over:
                return
            await self._beat_all([run for run in self._batch.runs if not run.is_settled])

    async def flush(self) -> None:
        """Send the previews that are left, before the jobs are final."""
        await self._beat_all([run for run in self._batch.runs if run.unsent_previews and not run.is_settled])

    async def _beat_all(self, runs: Sequence[JobRun]) -> None:
        async with self._round:  # so that a flush waits for previews that are on their way
            await asyncio.gather(*(self._beat(run) for run in runs))

    async def _beat(self, run: JobRun) -> None:
        try:
            await self._send(run)
        except StoreUnavailableError as error:
            self._outages.note_outage(error)
        except Exception as error:
            note_failure(TASK, self._metrics, error)
            self._stop_unheard(run)
            return
        self._heard_at_seconds[run] = time.monotonic()

    async def _send(self, run: JobRun) -> None:
        previews = tuple(run.unsent_previews)
        reply = await self._queue.heartbeat(run.claim, run.steps_done, previews=previews)
        self._outages.note_answer()
        for _ in previews:
            run.unsent_previews.popleft()
        if reply in STOP_REASONS and run.settling is None:
            self._stop(run, STOP_REASONS[reply])

    def _stop_unheard(self, run: JobRun) -> None:
        silent_seconds = time.monotonic() - self._heard_at_seconds[run]
        if silent_seconds >= run.claim.lease_seconds and run.settling is None:
            logger.error("job %s: no heartbeat for %.1f s, it is stopped", run.job.id, silent_seconds)
            self._stop(run, StopReason.UNHEARD)

    def _stop(self, run: JobRun, reason: StopReason) -> None:
        run.stop(reason)
        self._on_stopped(self._batch, run)
