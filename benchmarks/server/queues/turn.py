"""One turn of an asynchronous queue's client: enqueue so many jobs, wait until the last result is stored."""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable

from benchmarks.server.queues.payload import CONCURRENCY

WARM_UP_JOBS = 50
POLL_SECONDS = 0.01

Enqueue = Callable[[], Awaitable[str]]  # the result's key
CountStored = Callable[[list[str]], Awaitable[int]]


async def run_turn(jobs: int, enqueue: Enqueue, count_stored: CountStored) -> None:
    """Prints jobs and seconds as JSON, from the first call to the last result."""
    await _run(WARM_UP_JOBS, enqueue, count_stored)
    began = time.time()
    await _run(jobs, enqueue, count_stored)
    sys.stdout.write(json.dumps({"jobs": jobs, "seconds": time.time() - began}))


async def _run(jobs: int, enqueue: Enqueue, count_stored: CountStored) -> None:
    keys: list[str] = []
    left = jobs

    async def keep_enqueuing() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            keys.append(await enqueue())

    await asyncio.gather(*(keep_enqueuing() for _ in range(CONCURRENCY)))
    # The last one first: to ask for all of them all the time would slow the queue down.
    for awaited in (keys[-1:], keys):
        while await count_stored(awaited) < len(awaited):  # noqa: ASYNC110  # no event: another process stores them
            await asyncio.sleep(POLL_SECONDS)
