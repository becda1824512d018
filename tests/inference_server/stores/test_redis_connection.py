"""How the stores connect: over a Unix socket, and with a pool that can't make a connection."""

import asyncio
from pathlib import Path

import pytest
from easel_server.stores.jobs.interface import JobBounds
from easel_server.stores.opening import open_stores
from easel_server.stores.redis.pipeline import Pipeline
from redis import exceptions
from redis.asyncio import ConnectionPool

from tests.support.jobs import build_job
from tests.support.redis_server import RedisServer
from tests.support.stored_images import succeed

TIMEOUT_SECONDS = 5.0


@pytest.mark.redis
async def test_a_unix_socket_serves_scripts_blocking_calls_and_notices(tmp_path: Path) -> None:
    socket = tmp_path / "redis.sock"
    with RedisServer("--unixsocket", str(socket)):
        stores = open_stores(f"unix://{socket}", namespace="ml", service="sd", bounds=JobBounds())
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await stores.ping()
                claiming = asyncio.create_task(stores.jobs.claim("worker-1", lease_seconds=5, wait_seconds=5))
                await asyncio.sleep(0)
                reply = await stores.jobs.submit(build_job("one"))
                waiting = asyncio.create_task(stores.jobs.wait(reply.job.id, TIMEOUT_SECONDS))
                (claim,) = await claiming
                await succeed(stores.jobs, claim, (b"image",))
                ended = await waiting
            assert ended is not None
            assert ended.state.is_final
        finally:
            await stores.close()


async def test_callers_hear_of_a_connection_that_can_not_be_made() -> None:
    pipeline = Pipeline(ConnectionPool(no_such_option=True))
    async with asyncio.timeout(TIMEOUT_SECONDS):
        calls = [asyncio.create_task(pipeline.execute("PING")) for _ in range(5)]
        for call in calls:
            with pytest.raises(TypeError, match="no_such_option"):
                await call
        with pytest.raises(TypeError, match="no_such_option"):  # and so does the next one
            await pipeline.execute("PING")
        await pipeline.close()


async def test_a_pipeline_can_be_closed_before_a_call_has_begun() -> None:
    pipeline = Pipeline(ConnectionPool(port=1))
    call = asyncio.create_task(pipeline.execute("PING"))
    await asyncio.sleep(0)  # as far as the creation of the task that is to send
    async with asyncio.timeout(TIMEOUT_SECONDS):
        await pipeline.close()
    with pytest.raises(exceptions.ConnectionError, match="closed"):
        await call
