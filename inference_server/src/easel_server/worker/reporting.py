"""Tells the broker what became of jobs, as often as it takes, and counts them."""

import asyncio
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from opentelemetry.trace import Tracer

from easel_server.engine.interface import GenerationError, StopGenerationError
from easel_server.generation.job import Job, JobState
from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.jobs.interface import JobQueue, Outcome, Succeeded
from easel_server.telemetry.logs import logged_for
from easel_server.telemetry.metrics import JobTiming, ServerMetrics
from easel_server.telemetry.tracing import NO_TRACER
from easel_server.worker.batch import Batch, JobRun
from easel_server.worker.broker_link import BrokerLink
from easel_server.worker.drain import Drain
from easel_server.worker.job_spans import JobTimes, record_job_spans
from easel_server.worker.outcomes import StopReason, decide_outcome

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Retries:
    """Pauses while the broker is away, in seconds."""

    first_seconds: float
    limit_seconds: float


class Reporter:
    """Settles jobs: each is reported, handed back or dropped, once."""

    def __init__(
        self,
        broker: JobQueue,
        link: BrokerLink,
        drain: Drain,
        metrics: ServerMetrics,
        retries: Retries,
        *,
        load_seconds: float,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        """``load_seconds``: how long this worker has just been loading its model."""
        self._broker = broker
        self._link = link
        self._drain = drain
        self._metrics = metrics
        self._retries = retries
        self._load_seconds = load_seconds
        self._tracer = tracer
        self._ready_at_seconds = time.monotonic()

    def settle(self, batch: Batch, job: JobRun) -> asyncio.Task[None]:
        """Settle a job that was drawn, failed or was stopped; the task ends when the broker knows."""
        job.is_settling = True
        with logged_for(job.claim.job.request_id):
            return asyncio.create_task(self._settle(batch, job), name=f"settle-{job.claim.job.id}")

    async def _settle(self, batch: Batch, job: JobRun) -> None:
        job_id = job.claim.job.id
        if job.error is not None and not isinstance(job.error, StopGenerationError | GenerationError):
            logger.error("job %s: the engine failed", job_id, exc_info=job.error)
        outcome = decide_outcome(job.stop_reason, job.images, job.error, job.parameters)
        if outcome is not None:
            await self._finish(batch, job, outcome)
        elif job.stop_reason == StopReason.LOST:
            logger.warning("job %s: the claim was lost, its result is dropped", job_id)
        else:
            await self._release(job)
        job.is_settled = True

    async def _release(self, job: JobRun) -> None:
        try:
            await self._broker.release(job.claim)
            logger.info("job %s: released to the head of the queue", job.claim.job.id)
        except StoreUnavailableError as error:
            logger.warning("job %s: not released, its lease will run out: %s", job.claim.job.id, error)

    async def _finish(self, batch: Batch, job: JobRun, outcome: Outcome) -> None:
        """Report the outcome, as often as it takes: the work is done, and only this process has it."""
        measured = job.measurement if isinstance(outcome, Succeeded) else None
        reported_at_seconds = time.monotonic()
        pause_seconds = self._retries.first_seconds
        while True:
            try:
                is_accepted = await self._broker.finish(job.claim, outcome, measured)
                break
            except StoreUnavailableError as error:
                self._link.note_outage(error)
                if self._drain.left_seconds <= 0:
                    logger.error(
                        "job %s: its outcome is lost with this pod, another worker repeats the job: %s",
                        job.claim.job.id,
                        error,
                    )
                    return
            await self._drain.pause(pause_seconds)
            pause_seconds = min(2 * pause_seconds, self._retries.limit_seconds)
        self._link.note_return()
        if is_accepted:
            self._count(batch, job, JobState(type(outcome).__name__), reported_at_seconds)
        else:
            logger.warning("job %s: the claim was lost, its result is dropped", job.claim.job.id)

    def _count(self, batch: Batch, job: JobRun, state: JobState, reported_at_seconds: float) -> None:
        ready_seconds = batch.started_at_seconds - self._ready_at_seconds
        timing = build_timing(job.claim.job, batch, ready_seconds=ready_seconds, load_seconds=self._load_seconds)
        self._metrics.count_job(state, timing)
        logger.info("job %s: %s after %.2f s", job.claim.job.id, state, timing.run_seconds + timing.encode_seconds)
        if self._tracer is not NO_TRACER and (parent := job.claim.job.trace_parent) is not None:
            times = JobTimes.of(batch, timing, reported_at=reported_at_seconds, ready_at=self._ready_at_seconds)
            now, jobs = datetime.now(UTC), len(batch.jobs)
            record_job_spans(self._tracer, job.claim.job, parent, state, times, batch_jobs=jobs, now=now)


def build_timing(job: Job, batch: Batch, *, ready_seconds: float, load_seconds: float) -> JobTiming:
    """Where a job's time went; the parts add up to its latency.

    Time before the claim is by the broker's clock, the rest by this process's: no two clocks are compared. The part of
    it in which this worker was still loading its model (from ``ready_seconds + load_seconds`` to ``ready_seconds``
    before the batch began) counts as loading: 0 for jobs that came later.
    """
    waited = job.started_at - job.submitted_at if job.started_at else None
    waited_seconds = max(0.0, waited.total_seconds()) if waited else 0.0
    loading_seconds = min(load_seconds, max(0.0, waited_seconds - ready_seconds))
    return JobTiming(
        queue_seconds=waited_seconds - loading_seconds,
        load_seconds=loading_seconds,
        run_seconds=batch.last_step_at_seconds - batch.started_at_seconds,
        encode_seconds=batch.ended_at_seconds - batch.last_step_at_seconds,
    )
