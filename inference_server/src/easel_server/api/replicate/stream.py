"""Events of a prediction, as they are sent at ``urls.stream``.

    event     data                                                  when
    -----     ----                                                  ----
    logs      a line of tqdm's progress, `` 40%|####      | 12/30`` a step is done
              ``warning: …``, a line each                           something is done otherwise than asked
    output    the address of one image                              the prediction succeeded; one event an image
    error     {"detail": "…"}                                       the prediction failed, or was lost
    done      {}, {"reason": "canceled"} or {"reason": "error"}     the end: nothing follows
    progress  {"status", "queue_position", "jobs_ahead",            only with ``?progress=true``: at first, and when
              "workers", "eta_seconds", "steps_done", "steps",      one of them but the ETA has changed
              "previews": [address, …]}

The first four are Replicate's (https://replicate.com/docs/topics/predictions/streaming). Replicate's own clients break
on any other, so ``progress`` is sent to those only who ask for it. In it, ``status`` is a prediction's;
``queue_position`` (1 is next), ``jobs_ahead`` and ``workers`` (that take work now: 0 while the service sleeps) are null
unless it waits, and a place may fall back: others that can still be in time, or whose customers had less, go first;
``eta_seconds`` is as things stand, and null if no worker will generate it, or if it is over. A preview's address gives
a PNG, and is good while the prediction runs.

A stream begins with the state of things, so a client that was cut off misses nothing. One that says where it was
(``Last-Event-ID``) doesn't get an image twice, and gets 204, which ends a browser's attempts, if it had seen the end.
Comments (``:``) keep idle connections open.
"""

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from easel_server.api.links import Links
from easel_server.api.replicate.responses import build_progress_fields, build_progress_line, build_warning_lines
from easel_server.gateway.queue_estimate import Progress
from easel_server.gateway.refusals import refuse_lost
from easel_server.generation.job import Job, JobState
from easel_server.transport.streams import build_event, with_ticks

POSITION_SECONDS = 2.0  # between looks at the queue: others' jobs change a position, and no event says so
END_ID = "end"
LOST_ID = "lost"
OUTPUT_ID_PATTERN = re.compile(r"output-([0-9]{1,2})")
LookAtProgress = Callable[[Job], Awaitable[Progress]]
LookForUrls = Callable[[Job], Awaitable[Sequence[str | None]]]  # of images that can be fetched without this service


@dataclass(frozen=True)
class Seen:
    """What a client has of a stream."""

    outputs: int = 0
    ended: bool = False

    @classmethod
    def from_header(cls, last_event_id: str | None) -> "Seen":
        """By the header of a client that comes back; what it can't mean counts as nothing seen."""
        if last_event_id == END_ID:
            return cls(ended=True)
        match = OUTPUT_ID_PATTERN.fullmatch(last_event_id or "")
        return cls(outputs=int(match[1]) + 1 if match else 0)


async def stream_prediction(
    job_id: str,
    changes: AsyncGenerator[Job],
    *,
    look_at_progress: LookAtProgress,
    look_for_urls: LookForUrls,
    links: Links,
    seen: Seen,
    with_progress: bool,
) -> AsyncGenerator[bytes]:
    """Events of the job whose changes these are, to its end. Raises StoreUnavailableError."""
    job: Job | None = None
    last_line = ""
    warned = 0
    last_fields: dict[str, Any] = {}
    async with aclosing(with_ticks(changes, POSITION_SECONDS)) as ticks:
        async for changed in ticks:
            job = changed or job
            if job is None:
                continue
            if with_progress and (changed or job.state is JobState.WAITING):
                fields = build_progress_fields(job, await look_at_progress(job), links)
                if _is_news(fields, last_fields):
                    yield build_event("progress", fields, _step_id(job))
                    last_fields = fields
            if lines := build_warning_lines(job.warnings[warned:]):
                yield build_event("logs", lines, _step_id(job))
                warned = len(job.warnings)
            line = build_progress_line(job)
            if line and line != last_line:
                yield build_event("logs", line, _step_id(job))
                last_line = line
    if job is None or not job.state.is_final:  # what keeps it has lost it: a stream that merely ends says nothing
        yield build_event("error", {"detail": refuse_lost(job_id).message}, LOST_ID)
        yield build_event("done", {"reason": "error"}, END_ID)
    else:
        outputs = () if job.data_removed else links.outputs(job, await look_for_urls(job))
        for event in _build_end(job, outputs, seen):
            yield event


def _is_news(fields: dict[str, Any], before: dict[str, Any]) -> bool:
    return {**fields, "eta_seconds": None} != {**before, "eta_seconds": None}


def _step_id(job: Job) -> str:
    return f"step-{job.steps_done}"


def _build_end(job: Job, outputs: Sequence[str], seen: Seen) -> list[bytes]:
    match job.state:
        case JobState.SUCCEEDED:
            addresses = list(enumerate(outputs))[seen.outputs :]
            events = [build_event("output", address, f"output-{index}") for index, address in addresses]
            return [*events, build_event("done", {}, END_ID)]
        case JobState.CANCELED:
            return [build_event("done", {"reason": "canceled"}, END_ID)]
        case _:
            error = build_event("error", {"detail": job.error or "the prediction failed"}, _step_id(job))
            return [error, build_event("done", {"reason": "error"}, END_ID)]
