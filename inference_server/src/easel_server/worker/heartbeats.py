"""Keeps the claims of a worker alive while their jobs are generated and reported; carries progress and previews.

What the job store answers ends jobs early: those that were cancelled, are too late, or are another worker's by now.
A heartbeat that fails unforeseen is sent again with the next round. A job whose heartbeats go on failing so for as long
as its lease is stopped: another worker may have it by then, and its result would be refused. An outage of the store is
something else: then no lease is held against anybody.

Jobs in an engine that hangs have no heartbeats: their leases expire, and other workers get them.
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
from easel_server.worker.job_run import JobRun, StopReason

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
    """Those of one worker; ``run`` them until ``end``."""

    def __init__(
        self,
        queue: JobQueue,
        outages: OutageLog,
        metrics: TaskMetrics,
        *,
        period_seconds: float,
        on_stopped: Callable[[JobRun], None],
        is_engine_stalled: Callable[[], bool],
    ) -> None:
        """``on_stopped`` is called for a job that the store no longer wants generated; it must not block."""
        self._queue = queue
        self._outages = outages
        self._metrics = metrics
        self._period_seconds = period_seconds
        self._on_stopped = on_stopped
        self._is_engine_stalled = is_engine_stalled
        self._runs: dict[JobRun, None] = {}  # in the order in which they came
        self._round = asyncio.Lock()
        self._is_report_due = asyncio.Event()
        self._is_over = False

    def add(self, run: JobRun) -> None:
        """Keep its claim alive until it is settled."""
        self._runs[run] = None

    def remove(self, run: JobRun) -> None:
        """It is settled."""
        self._runs.pop(run, None)

    def report_soon(self) -> None:
        """A job has a preview to send."""
        self._is_report_due.set()

    def end(self) -> None:
        """Let ``run`` return."""
        self._is_over = True
        self._is_report_due.set()

    async def run(self) -> None:
        """Beat every period, and at once when there is a preview to send."""
        due_at = time.monotonic() + self._period_seconds
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_report_due.wait(), max(0.0, due_at - time.monotonic()))
            self._is_report_due.clear()
            if self._is_over:
                return
            is_period_over = time.monotonic() >= due_at
            if is_period_over:
                due_at = time.monotonic() + self._period_seconds
            await self._beat_all([run for run in self._runs if is_period_over or run.unsent_previews])

    async def flush(self, run: JobRun) -> None:
        """Send the previews that are left, before the job is final."""
        await self._beat_all([run])

    async def _beat_all(self, runs: Sequence[JobRun]) -> None:
        is_stalled = self._is_engine_stalled()
        async with self._round:  # so that a flush waits for previews that are on their way
            beating = [run for run in runs if not run.is_settled and (run.has_left_engine or not is_stalled)]
            await asyncio.gather(*(self._beat(run) for run in beating))

    async def _beat(self, run: JobRun) -> None:
        try:
            await self._send(run)
        except StoreUnavailableError as error:
            self._outages.note_outage(error)
        except Exception as error:
            note_failure(TASK, self._metrics, error)
            self._stop_unheard(run)
            return
        run.heard_at_seconds = time.monotonic()

    async def _send(self, run: JobRun) -> None:
        previews = tuple(run.unsent_previews)
        reply = await self._queue.heartbeat(run.claim, run.steps_done, previews=previews)
        self._outages.note_answer()
        for _ in previews:
            run.unsent_previews.popleft()
        if reply in STOP_REASONS and run.settling is None:
            self._stop(run, STOP_REASONS[reply])

    def _stop_unheard(self, run: JobRun) -> None:
        silent_seconds = time.monotonic() - run.heard_at_seconds
        if silent_seconds >= run.claim.lease_seconds and run.settling is None:
            logger.error("job %s: no heartbeat for %.1f s, it is stopped", run.job.id, silent_seconds)
            self._stop(run, StopReason.UNHEARD)

    def _stop(self, run: JobRun, reason: StopReason) -> None:
        run.stop(reason)
        self._on_stopped(run)
