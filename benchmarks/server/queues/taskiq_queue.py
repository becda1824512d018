"""taskiq with taskiq-redis (https://taskiq-python.github.io): ``enqueue JOBS``; workers by taskiq's own command.

The stream broker is the durable one: a task is acknowledged once its result is stored. The list broker takes a task out
of Redis before it runs, so a worker that dies loses it; it is measured beside, and doesn't count.
"""

import os
import sys
from typing import Any

import uvloop
from redis.asyncio import Redis
from taskiq import AsyncBroker
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend, RedisStreamBroker

from benchmarks.server.queues import payload
from benchmarks.server.queues.turn import run_turn

ENV_BROKER = "BENCH_TASKIQ_BROKER"


def build_broker() -> AsyncBroker:
    """The stream broker, unless the environment says ``list``."""
    results: RedisAsyncResultBackend[bytes] = RedisAsyncResultBackend(
        payload.REDIS_URL, result_ex_time=payload.RESULT_TTL_SECONDS
    )
    kind = ListQueueBroker if os.environ.get(ENV_BROKER) == "list" else RedisStreamBroker
    return kind(payload.REDIS_URL).with_result_backend(results)


broker = build_broker()


@broker.task(task_name="generate")  # a name of its own: the client runs this file as __main__
async def generate(parameters: dict[str, Any]) -> bytes:  # noqa: ARG001
    """The task."""
    return payload.IMAGE


async def enqueue(jobs: int) -> None:
    """A turn."""
    await broker.startup()
    redis = Redis.from_url(payload.REDIS_URL)

    async def enqueue_one() -> str:
        return (await generate.kiq(payload.PARAMETERS)).task_id

    async def count_stored(keys: list[str]) -> int:
        return int(await redis.exists(*keys))

    await run_turn(jobs, enqueue_one, count_stored)
    await redis.aclose()
    await broker.shutdown()


if __name__ == "__main__":
    uvloop.run(enqueue(int(sys.argv[2])))
