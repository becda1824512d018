"""A job's way through a worker, told as spans once it is over.

span            from                                     to
----            ----                                     --
wait in queue   the submit                               the claim, both by the broker's clock
load model      the job waited and this worker loaded    the model was loaded; jobs that came later have no such span
process job     the worker could have the job            the broker has the outcome
  claim         the same                                 the worker has it
  generate      the engine began                         the last step, each step an event
  encode        the last step                            the pictures are encoded
  finish        the first report of the outcome          the broker has it

The broker's and the worker's clocks differ by what their machines' clocks do.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from easel_server.generation.job import Job, JobState
from easel_server.telemetry.metrics import JobTiming
from easel_server.telemetry.tracing import Attributes, SpanEvent, SpanKind, SpanRecord
from easel_server.worker.batch import Batch

MAX_STEP_EVENTS: Final = 100  # of a span; OpenTelemetry's own bound is 128


@dataclass(frozen=True)
class JobTimes:
    """When a job reached each point, in seconds of the worker's monotonic clock."""

    asked_at: float  # the claim was asked for
    claimed_at: float
    began_at: float  # the engine
    stepped_at: Sequence[float]
    encoded_at: float
    reported_at: float  # for the first time
    finished_at: float
    ready_at: float  # the model was loaded, for all jobs
    load_seconds: float  # in which this job waited for that

    @classmethod
    def of(cls, batch: Batch, timing: JobTiming, *, reported_at: float, ready_at: float) -> "JobTimes":
        """Of a job of this batch that the broker has just taken back."""
        return cls(
            asked_at=batch.asked_at_seconds,
            claimed_at=batch.claimed_at_seconds,
            began_at=batch.started_at_seconds,
            stepped_at=tuple(batch.steps_at_seconds),
            encoded_at=batch.ended_at_seconds,
            reported_at=reported_at,
            finished_at=time.monotonic(),
            ready_at=ready_at,
            load_seconds=timing.load_seconds,
        )


def build_job_spans(
    job: Job, state: JobState, times: JobTimes, *, batch_jobs: int, now: datetime
) -> tuple[SpanRecord, ...]:
    """The spans of a job that has ended ``now``."""

    def at(seconds: float) -> datetime:
        return now - timedelta(seconds=times.finished_at - seconds)

    waited_seconds = (job.started_at - job.submitted_at).total_seconds() if job.started_at else 0.0
    offered_at = max(times.asked_at, times.claimed_at - max(0.0, waited_seconds))
    drawn_at = times.stepped_at[-1] if times.stepped_at else times.began_at
    generate = SpanRecord(
        "generate", at(times.began_at), at(drawn_at), attributes=_describe_work(job), events=_build_events(times, at)
    )
    process = SpanRecord(
        "process job",
        at(offered_at),
        at(times.finished_at),
        kind=SpanKind.CONSUMER,
        attributes=_describe_job(job, state, batch_jobs),
        children=(
            SpanRecord("claim", at(offered_at), at(times.claimed_at)),
            generate,
            SpanRecord("encode", at(drawn_at), at(times.encoded_at)),
            SpanRecord("finish", at(times.reported_at), at(times.finished_at)),
        ),
        error=None if state in {JobState.SUCCEEDED, JobState.CANCELED} else state,
    )
    spans = [process]
    if times.load_seconds > 0:
        spans.insert(0, SpanRecord("load model", at(times.ready_at - times.load_seconds), at(times.ready_at)))
    if job.started_at is not None:
        spans.insert(0, SpanRecord("wait in queue", job.submitted_at, max(job.submitted_at, job.started_at)))
    return tuple(spans)


def _build_events(times: JobTimes, at: Callable[[float], datetime]) -> tuple[SpanEvent, ...]:
    steps = len(times.stepped_at)
    stride = -(-steps // MAX_STEP_EVENTS) if steps else 1
    shown = {*range(stride, steps + 1, stride), steps} - {0}
    return tuple(SpanEvent("step", at(times.stepped_at[step - 1]), {"easel.step": step}) for step in sorted(shown))


def _describe_work(job: Job) -> Attributes:
    parameters = job.parameters
    return {
        "easel.image.width_pixels": parameters.width_pixels,
        "easel.image.height_pixels": parameters.height_pixels,
        "easel.image.count": parameters.images,
        "easel.steps": parameters.denoising_steps,
    }


def _describe_job(job: Job, state: JobState, batch_jobs: int) -> Attributes:
    """By OpenTelemetry's conventions for messaging, where they have a word."""
    return {
        "messaging.operation.type": "process",
        "messaging.message.id": job.id,
        "messaging.batch.message_count": batch_jobs,
        "easel.job.attempt": job.attempts,
        "easel.job.state": state,
        **({"easel.request.id": job.request_id} if job.request_id else {}),
        **({"easel.worker": job.worker} if job.worker else {}),
    }
