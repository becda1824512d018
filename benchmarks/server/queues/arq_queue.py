"""arq (https://arq-docs.helpmanuel.io): run as ``arq_queue work`` or ``arq_queue enqueue JOBS``, in .venv-arq."""

import asyncio
import sys
from typing import Any

import uvloop
from arq import create_pool, run_worker  # type: ignore[import-not-found]  # in .venv-arq
from arq.connections import RedisSettings  # type: ignore[import-not-found]
from arq.constants import result_key_prefix  # type: ignore[import-not-found]

from benchmarks.server.queues import payload
from benchmarks.server.queues.turn import run_turn

SETTINGS = RedisSettings.from_dsn(payload.REDIS_URL)


async def generate(context: dict[str, Any], parameters: dict[str, Any]) -> bytes:  # noqa: ARG001
    """The task."""
    return payload.IMAGE


class WorkerSettings:
    """More at a time and a shorter pause between looks than by default: both make arq faster here."""

    functions = [generate]  # noqa: RUF012
    redis_settings = SETTINGS
    max_jobs = 200
    poll_delay = 0.01
    keep_result = payload.RESULT_TTL_SECONDS
    log_results = False


async def enqueue(jobs: int) -> None:
    """A turn."""
    pool = await create_pool(SETTINGS)

    async def enqueue_one() -> str:
        job = await pool.enqueue_job("generate", payload.PARAMETERS)
        assert job is not None
        return f"{result_key_prefix}{job.job_id}"

    async def count_stored(keys: list[str]) -> int:
        return int(await pool.exists(*keys))

    await run_turn(jobs, enqueue_one, count_stored)


if __name__ == "__main__":
    if sys.argv[1] == "work":
        uvloop.install()
        asyncio.set_event_loop(asyncio.new_event_loop())
        run_worker(WorkerSettings)
    else:
        uvloop.run(enqueue(int(sys.argv[2])))
