"""A client that keeps its request open until its images are there, or until it leaves."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Final

from fastapi import Request

from easel_server.gateway.orders import Placed
from easel_server.gateway.refusals import RefusalError
from easel_server.gateway.submit import Generation
from easel_server.generation.job import Job, JobState

# As long as OpenAI's own clients wait by default. A job that hasn't ended by then fails, since nobody waits for it.
WAIT: Final = timedelta(minutes=10)


DEADLINE_MARGIN: Final = timedelta(seconds=5)  # the wait outlives the deadline, so that the client reads which it was


async def wait_while_connected(request: Request, generation: Generation, placed: Placed, *, cancel: bool) -> Job:
    """The job at its end. If the client leaves first, the job is cancelled if it may be: nobody else waits for it."""
    if placed.job.state.is_final:
        return placed.job
    waiting = asyncio.create_task(generation.wait(placed, (WAIT + DEADLINE_MARGIN).total_seconds()))
    # The body is read, so the next thing that the connection says is that it's closed.
    leaving = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return waiting.result()
        if cancel:
            await generation.cancel(placed.job.id, placed.job.owner)
        raise RefusalError(400, "client_disconnected", "the client left before its images were ready")
    finally:
        waiting.cancel()
        leaving.cancel()


def expect_success(job: Job) -> Job:
    """The job. Raises RefusalError that says why there are no images."""
    if job.state is JobState.SUCCEEDED:
        return job
    if job.state is JobState.CANCELED:
        raise RefusalError(422, "canceled", f"request {job.id} was cancelled")
    is_late = job.deadline_at is not None and datetime.now(UTC) >= job.deadline_at
    if is_late or not job.state.is_final:
        seconds = WAIT.total_seconds()
        message = f"no images within {seconds:.0f} s; for work that may wait longer use POST /v1/predictions"
        raise RefusalError(504, "deadline_exceeded", message)
    raise RefusalError(422, "generation_failed", job.error or f"request {job.id} failed")
