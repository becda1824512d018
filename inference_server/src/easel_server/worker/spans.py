"""A job's way through a worker, recorded as spans once it is over.

span            from                                     to
----            ----                                     --
wait in queue   the submit                               the claim, both by the job store's clock
load model      the job waited and this worker loaded    the model was loaded; jobs that came later have no such span
process job     the worker could have the job            the job store has the outcome
  claim         the same                                 the worker has it
  generate      the engine began it                      its last step, each step an event
  encode        its last step                            its images are decoded and encoded
  finish        the first report of the outcome          the job store has it

The job store's and the worker's clocks differ by what their machines' clocks do.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Tracer, set_span_in_context
from opentelemetry.util.types import Attributes

from easel_server.generation.job import Job, JobState
from easel_server.telemetry.metrics import JobTiming
from easel_server.telemetry.tracing import fail_span, to_context
from easel_server.worker.job_run import JobRun

MAX_STEP_EVENTS: Final = 100  # of a span; OpenTelemetry's own bound is 128
NANOSECONDS: Final = 1_000_000_000


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
    def of(cls, run: JobRun, timing: JobTiming, *, reported_at: float, ready_at: float) -> "JobTimes":
        """Of a job whose outcome the job store has just taken."""
        return cls(
            asked_at=run.asked_at_seconds,
            claimed_at=run.claimed_at_seconds,
            began_at=run.began_at_seconds,
            stepped_at=tuple(run.stepped_at_seconds),
            encoded_at=run.ended_at_seconds,
            reported_at=reported_at,
            finished_at=time.monotonic(),
            ready_at=ready_at,
            load_seconds=timing.load_seconds,
        )


def record_job_spans(
    tracer: Tracer, job: Job, trace_parent: str, state: JobState, times: JobTimes, *, batch_jobs: int, now: datetime
) -> None:
    """Record the spans of a job that has ended ``now``, inside ``trace_parent``: the span of its submit."""
    now_nanoseconds = _to_nanoseconds(now)

    def at(seconds: float) -> int:
        return now_nanoseconds - round((times.finished_at - seconds) * NANOSECONDS)

    def start(
        name: str, began_at: int, within: Context, attributes: Attributes = None, kind: SpanKind = SpanKind.INTERNAL
    ) -> Span:
        return tracer.start_span(name, within, kind, attributes, start_time=began_at)

    parent = to_context(trace_parent)
    waited_seconds = 0.0
    if job.started_at is not None:
        waited_seconds = (job.started_at - job.submitted_at).total_seconds()
        waiting = start("wait in queue", _to_nanoseconds(job.submitted_at), parent)
        waiting.end(_to_nanoseconds(max(job.submitted_at, job.started_at)))
    if times.load_seconds > 0:
        start("load model", at(times.ready_at - times.load_seconds), parent).end(at(times.ready_at))
    offered_at = max(times.asked_at, times.claimed_at - max(0.0, waited_seconds))
    generated_at = times.stepped_at[-1] if times.stepped_at else times.began_at
    process = start("process job", at(offered_at), parent, _describe_job(job, state, batch_jobs), SpanKind.CONSUMER)
    if state not in {JobState.SUCCEEDED, JobState.CANCELED}:
        fail_span(process, state)
    inside = set_span_in_context(process, Context())
    start("claim", at(offered_at), inside).end(at(times.claimed_at))
    generate = start("generate", at(times.began_at), inside, _describe_work(job))
    for step in _choose_steps(len(times.stepped_at)):
        generate.add_event("step", {"easel.step": step}, at(times.stepped_at[step - 1]))
    generate.end(at(generated_at))
    start("encode", at(generated_at), inside).end(at(times.encoded_at))
    start("finish", at(times.reported_at), inside).end(at(times.finished_at))
    process.end(at(times.finished_at))


def _choose_steps(steps: int) -> list[int]:
    """Those that become events: evenly spaced, the last among them."""
    stride = -(-steps // MAX_STEP_EVENTS) if steps else 1
    return sorted({*range(stride, steps + 1, stride), steps} - {0})


def _to_nanoseconds(moment: datetime) -> int:
    return round(moment.timestamp() * NANOSECONDS)


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
