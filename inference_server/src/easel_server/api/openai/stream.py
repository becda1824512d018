"""Events of an images request with ``stream: true``, by the names that OpenAI's clients know.

image_generation.partial_image, image_edit.partial_image   an unfinished picture: up to ``partial_images`` of them
image_generation.completed, image_edit.completed           a finished picture; nothing follows the last
error                                                      instead: {"error": …} as other answers have it
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from easel_server.api.errors import build_openai_error, to_refusal
from easel_server.api.openai.fields import EventFamily, build_completed_event, build_partial_event
from easel_server.gateway.orders import Placed
from easel_server.gateway.submit import Generation
from easel_server.gateway.waiting import expect_success
from easel_server.generation.job import Job
from easel_server.transport.streams import build_event


async def stream_images(generation: Generation, placed: Placed, family: EventFamily) -> AsyncGenerator[bytes]:
    """Events of a job to its end, whatever that is."""
    try:
        if placed.images is not None:
            for image in placed.images:
                yield _complete(placed.job, family, image)
            return
        async for event in _follow(generation, placed.job, family):
            yield event
    except Exception as error:  # the answer's head is sent already: an event is all that can still tell
        _, body = build_openai_error(to_refusal(error))
        yield build_event("error", body)


async def _follow(generation: Generation, placed: Job, family: EventFamily) -> AsyncGenerator[bytes]:
    job = placed
    sent = 0
    async with aclosing(generation.watch(job)) as changes:
        async for job in changes:
            if job.previews > sent and not job.state.is_final:
                for preview in (await generation.previews(job))[sent:]:
                    event = build_partial_event(job, family, sent, preview)
                    yield build_event(event["type"], event)
                    sent += 1
    for image in await generation.images(expect_success(job)):
        yield _complete(job, family, image)


def _complete(job: Job, family: EventFamily, image: bytes) -> bytes:
    event = build_completed_event(job, family, image)
    return build_event(event["type"], event)
