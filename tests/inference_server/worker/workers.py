"""A worker around a fake engine, and what tests wait for."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from easel_server.engine.interface import Engine
from easel_server.generation.job import Job
from easel_server.generation.models import ModelIdentity
from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.images.interface import ImageStore
from easel_server.stores.jobs.interface import Jobs
from easel_server.telemetry.metrics import ServerMetrics
from easel_server.worker.worker import Worker, WorkerSettings

from tests.support.eventually import eventually
from tests.support.fake_engine import FakeEngine
from tests.support.stored_images import image_store_of

STEPS = 4


def build_worker(
    store: Any,
    engine: Engine,
    *,
    drain_seconds: float = 20.0,
    lease_seconds: float = 30.0,
    step_limit_seconds: float = 20.0,
    heartbeat_limit_seconds: float = 0.01,
    max_batch_images: int | None = 1,
    step_timeout_seconds: float | None = None,
    gather_pause_seconds: float = 0.0,
    images: Any = None,
    identity: ModelIdentity | None = None,
) -> tuple[Worker, ServerMetrics]:
    metrics = ServerMetrics(gateway=False, worker=True)
    settings = WorkerSettings(
        name="worker-a",
        lease_seconds=lease_seconds,
        drain_seconds=drain_seconds,
        claim_wait_seconds=0.1,
        max_batch_images=max_batch_images,
        step_timeout_seconds=step_timeout_seconds,
        heartbeat_limit_seconds=heartbeat_limit_seconds,
        retry_seconds=0.01,
        retry_limit_seconds=0.05,
        step_limit_seconds=step_limit_seconds,
        gather_pause_seconds=gather_pause_seconds,
    )
    return (
        Worker(store, images or image_store_of(store), engine, settings, identity=identity, metrics=metrics),
        metrics,
    )


@asynccontextmanager
async def running(worker: Worker) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(worker.run())
    try:
        yield task
    finally:
        worker.drain()
        await asyncio.wait_for(task, 20)


async def job_in(store: Jobs, job_id: str, is_there: Callable[[Job], bool]) -> Job:
    async def look() -> Job | None:
        job = await store.get(job_id)
        return job if job is not None and is_there(job) else None

    job = await eventually(look)
    assert job is not None
    return job


async def generation_of(engine: FakeEngine, seed: int) -> None:
    """Until the engine is at it; the store says Running a little earlier."""

    async def has_started() -> bool:
        return seed in engine.started

    await eventually(has_started)


async def final_job(store: Jobs, job_id: str) -> Job:
    job = await store.wait(job_id, 20)
    assert job is not None
    assert job.state.is_final
    return job


class Outage:
    """A store in front of another; it is away while ``is_away``."""

    def __init__(self, store: Jobs | ImageStore) -> None:
        self._broker = store
        self._images = getattr(store, "_images", None)  # which has no outage
        self.is_away = False
        self.refused: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            if self.is_away:
                self.refused.append(name)
                raise StoreUnavailableError("redis:6379", name, "ConnectionError: refused", "wait")
            return await getattr(self._broker, name)(*args, **kwargs)

        return call
