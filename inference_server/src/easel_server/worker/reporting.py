"""Decides what became of jobs, reports it to the job store as often as it takes, and counts them.

The first line that applies decides:

    the claim was lost            nothing is reported: another worker has the job
    cancel was asked for          Canceled
    the deadline passed           Failed
    images came out               Succeeded, once they are put where images are kept
    the drain stopped it, or an
    engine that broke otherwise   nothing is reported: the worker releases the job
    its heartbeats failed         Retry: this attempt counts, or it would come back here for ever
    GenerationError               Failed with its message
    GatheringError                Retry: what it needs beside the model may be had later
    memory ran out                Failed with the request's size
    any other error               Retry: no request is to blame; Failed after the last attempt that is allowed
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from opentelemetry.trace import Tracer

from easel_server.engine.device_errors import is_out_of_memory
from easel_server.engine.interface import GatheringError, GenerationError, StopGenerationError
from easel_server.generation.images import MEDIA_TYPES
from easel_server.generation.job import JobState
from easel_server.generation.messages import count_flagged
from easel_server.generation.models import ModelIdentity
from easel_server.generation.parameters import GenerationParameters
from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.images.interface import ImageStore
from easel_server.stores.jobs.interface import Canceled, Failed, JobQueue, Outcome, Succeeded
from easel_server.telemetry.logs import logged_for
from easel_server.telemetry.metrics import JobTiming, ServerMetrics
from easel_server.telemetry.supervision import note_failure
from easel_server.telemetry.tracing import NO_TRACER
from easel_server.worker.drain import Drain, release
from easel_server.worker.engine_errors import describe_error
from easel_server.worker.heartbeats import OutageLog
from easel_server.worker.job_run import JobRun, StopReason
from easel_server.worker.spans import JobTimes, record_job_spans

DEADLINE_PASSED: Final = Failed(
    "the deadline passed while the job was running; allow it more time, or ask for fewer steps, images or pixels"
)

TASK: Final = "reporting"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Generated:
    """The job's images, encoded, in order."""

    images: tuple[bytes, ...]


@dataclass(frozen=True)
class Retry:
    """No fault of the job's: another attempt, perhaps by another worker, unless this was the last one allowed."""

    error: str  # what the client reads if it was


STOPPED: Final[Mapping[StopReason | None, Outcome]] = {
    StopReason.CANCEL: Canceled(),
    StopReason.DEADLINE_PASSED: DEADLINE_PASSED,
}
UNHEARD: Final = Retry(
    "its workers could not report that they were at it, in each attempt that is allowed; their logs have more"
)


@dataclass(frozen=True)
class Retries:
    """Pauses while the job store, or the bucket for images, is away, in seconds."""

    first_seconds: float
    limit_seconds: float


def identify_run(run: JobRun, identity: ModelIdentity | None) -> ModelIdentity | None:
    """What a job was generated with: the model, and the content of all that it used beside it."""
    return identity.with_add_ons({each.name: each.digest for each in run.gathered}) if identity is not None else None


class Reporter:
    """Settles jobs: each is reported, released or dropped, once."""

    def __init__(
        self,
        queue: JobQueue,
        images: ImageStore,
        outages: OutageLog,
        drain: Drain,
        metrics: ServerMetrics,
        retries: Retries,
        *,
        load_seconds: float,
        identity: ModelIdentity | None,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        """``load_seconds``: how long this worker has just been loading its model, ``identity``: which that is."""
        self._queue = queue
        self._images = images
        self._outages = outages
        self._drain = drain
        self._metrics = metrics
        self._retries = retries
        self._load_seconds = load_seconds
        self._identity = identity
        self._tracer = tracer
        self._ready_at_seconds = time.monotonic()

    def begin_settling(self, run: JobRun) -> None:
        """Settle a job that was stopped, whatever the engine is doing; ``run.settling`` ends when the store has it."""
        with logged_for(run.job.request_id):
            run.settling = asyncio.create_task(self.settle(run), name=f"settle-{run.job.id}")

    async def settle(self, run: JobRun) -> None:
        """Settle a job that was generated, failed or was stopped.

        One that can't be reported costs itself an attempt, not its worker.
        """
        try:
            await self._report(run)
        except Exception as error:
            note_failure(TASK, self._metrics, error)
            try:
                await self._queue.retry(run.claim, f"its outcome can't be reported: {describe_error(error)}")
            except Exception as second:
                logger.warning("job %s: not released, its lease will run out: %r", run.job.id, second)
        run.is_settled = True

    async def _report(self, run: JobRun) -> None:
        if run.error is not None and not isinstance(run.error, StopGenerationError | GenerationError | GatheringError):
            logger.error("job %s: the engine failed", run.job.id, exc_info=run.error)
        outcome = decide_outcome(run.stop_reason, run.images, run.error, run.job.parameters)
        if outcome is not None:
            await self._finish(run, outcome)
        elif run.stop_reason == StopReason.LOST:
            logger.warning("job %s: the claim was lost, its result is dropped", run.job.id)
        else:
            await release(self._queue, run)

    async def _finish(self, run: JobRun, outcome: Generated | Retry | Outcome) -> None:
        """Report the outcome, as often as it takes: the work is done, and only this process has it."""
        measured = run.measure() if isinstance(outcome, Generated) else None
        reported_at_seconds = time.monotonic()
        pause_seconds = self._retries.first_seconds
        while True:
            try:
                if isinstance(outcome, Generated):
                    media_type = MEDIA_TYPES[run.job.parameters.image_format]
                    outcome = Succeeded(await self._images.put(run.job.id, outcome.images, media_type), run.warnings)
                if isinstance(outcome, Retry):
                    state = await self._queue.retry(run.claim, outcome.error)
                elif await self._queue.finish(
                    run.claim,
                    outcome,
                    measured,
                    identify_run(run, self._identity),
                    gpu_seconds=run.gpu_seconds,
                ):
                    state = JobState(type(outcome).__name__)
                else:
                    state = None
                break
            except StoreUnavailableError as error:
                self._outages.note_outage(error)
                if self._drain.time_is_up.done():
                    logger.error(
                        "job %s: its outcome is lost with this pod, another worker repeats the job: %s",
                        run.job.id,
                        error,
                    )
                    return
            await self._drain.pause(pause_seconds)
            pause_seconds = min(2 * pause_seconds, self._retries.limit_seconds)
        self._outages.note_answer()
        if state is JobState.WAITING:
            self._metrics.count_retry()
            logger.info("job %s: released for another attempt", run.job.id)
            return
        if state is not None:
            self._count(run, state, reported_at_seconds)
            return
        logger.warning("job %s: the claim was lost, its result is dropped", run.job.id)
        if isinstance(outcome, Succeeded):
            with suppress(StoreUnavailableError):  # then they expire
                await self._images.delete([outcome.images.unused])

    def _count(self, run: JobRun, state: JobState, reported_at_seconds: float) -> None:
        job = run.job
        ready_seconds = run.claimed_at_seconds - self._ready_at_seconds
        timing = build_timing(run, ready_seconds=ready_seconds, load_seconds=self._load_seconds)
        self._metrics.count_job(state, timing)
        for policy, images in count_flagged([*run.warnings, str(run.error or "")]).items():
            self._metrics.count_flagged(policy, images)
        logger.info("job %s: %s after %.2f s", job.id, state, timing.run_seconds + timing.encode_seconds)
        if self._tracer is not NO_TRACER and (parent := job.trace_parent) is not None:
            times = JobTimes.of(run, timing, reported_at=reported_at_seconds, ready_at=self._ready_at_seconds)
            now = datetime.now(UTC)
            record_job_spans(self._tracer, job, parent, state, times, batch_jobs=run.most_jobs, now=now)


def build_timing(run: JobRun, *, ready_seconds: float, load_seconds: float) -> JobTiming:
    """Where a job's time went; the parts add up to its latency.

    Time before the claim is by the store's clock, the rest by this process's: no two clocks are compared. The part of
    it in which this worker was still loading its model (from ``ready_seconds + load_seconds`` to ``ready_seconds``
    before the claim) counts as loading: 0 for jobs that came later.
    """
    job = run.job
    waited = job.started_at - job.submitted_at if job.started_at else None
    waited_seconds = max(0.0, waited.total_seconds()) if waited else 0.0
    loading_seconds = min(load_seconds, max(0.0, waited_seconds - ready_seconds))
    return JobTiming(
        queue_seconds=waited_seconds - loading_seconds,
        load_seconds=loading_seconds,
        run_seconds=run.last_step_at_seconds - run.claimed_at_seconds,
        encode_seconds=max(0.0, run.ended_at_seconds - run.last_step_at_seconds),  # a canceled job has none
    )


def decide_outcome(
    stop_reason: StopReason | None,
    images: tuple[bytes, ...] | None,
    error: BaseException | None,
    parameters: GenerationParameters,
) -> Generated | Retry | Outcome | None:
    """What to report, given either the images or what the engine raised; None if there is nothing to report."""
    if stop_reason == StopReason.LOST:
        return None
    if stop_reason in STOPPED:
        return STOPPED[stop_reason]
    if images is not None:
        return Generated(images)
    if stop_reason == StopReason.UNHEARD:
        return UNHEARD
    if error is None or isinstance(error, StopGenerationError):
        return None
    return build_failure(error, parameters)


def build_failure(error: BaseException, parameters: GenerationParameters) -> Failed | Retry:
    """The failure to report for what the engine failed with."""
    if isinstance(error, GenerationError):
        return Failed(str(error))
    if isinstance(error, GatheringError):
        return Retry(str(error))
    if is_out_of_memory(error):
        return Failed(
            f"the worker ran out of memory at {parameters.width_pixels}x{parameters.height_pixels} pixels, "
            f"{parameters.images} image(s), {parameters.steps} steps; ask for fewer images or a smaller size "
            "(the number of steps makes no difference), or give workers a larger GPU"
        )
    return Retry(
        f"the engine failed with {describe_error(error)}; no further attempt is made, the worker's log has more"
    )
