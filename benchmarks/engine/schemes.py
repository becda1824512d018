"""Ways to serve arrivals with one engine: the real worker, and the static batches that it had before, bare.

The worker is Easel's own with the job store in memory: claims, heartbeats and reports are in its times. Of the static
scheme nothing but the order of work is left (a queue in a list, no store, no leases, images encoded beside the next
batch as the worker does), so that it is at its best: a batch is the longest waiting job and up to so many more with as
many steps, and nobody joins it until all of it is done.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from easel_server.engine.interface import Engine, Generation
from easel_server.generation.job import Job, JobState
from easel_server.stores.jobs.interface import JobBounds
from easel_server.stores.opening import open_stores
from easel_server.telemetry.metrics import ServerMetrics
from easel_server.worker.worker import Worker, WorkerSettings

from benchmarks.engine.arrivals import Arrival, Service

Scheme = Callable[[Engine, Sequence[Arrival]], Service]
LEASE_SECONDS: Final = 60.0
END_TIMEOUT_SECONDS: Final = 300.0


def build_worker_scheme(max_images: int | None) -> Scheme:
    """The real worker, with room for so many images at once; None: for as many as the engine does best."""

    def serve(engine: Engine, arrivals: Sequence[Arrival]) -> Service:
        return asyncio.run(_serve_by_worker(engine, arrivals, max_images))

    return serve


def build_static_scheme(max_jobs: int) -> Scheme:
    """Batches of at most so many jobs of equal steps, each to its end."""

    def serve(engine: Engine, arrivals: Sequence[Arrival]) -> Service:
        return asyncio.run(_serve_static(engine, arrivals, max_jobs))

    return serve


async def _arrive(arrivals: Sequence[Arrival], began: float, take: Callable[[Arrival], Awaitable[None]]) -> None:
    for arrival in arrivals:
        if (early_seconds := began + arrival.at_seconds - time.monotonic()) > 0:  # those of one moment come together
            await asyncio.sleep(early_seconds)
        await take(arrival)


async def _serve_by_worker(engine: Engine, arrivals: Sequence[Arrival], max_images: int | None) -> Service:
    stores = open_stores(None, namespace="bench", service="bench", bounds=JobBounds(max_image_bytes=1 << 40))
    settings = WorkerSettings(
        name="bench", lease_seconds=LEASE_SECONDS, drain_seconds=LEASE_SECONDS, max_batch_images=max_images
    )
    metrics = ServerMetrics(gateway=False, worker=True)
    worker = Worker(stores.jobs, stores.images, engine, settings, metrics=metrics)
    working = asyncio.create_task(worker.run())
    due: dict[str, float] = {}
    ends: dict[str, float] = {}
    waiting: list[asyncio.Task[None]] = []
    began = time.monotonic()

    async def await_end(job_id: str) -> None:
        job = await stores.jobs.wait(job_id, END_TIMEOUT_SECONDS)
        assert job is not None
        assert job.state is JobState.SUCCEEDED, job
        ends[job_id] = time.monotonic()

    async def submit(arrival: Arrival) -> None:
        job = Job(
            id=f"job-{len(due)}",
            owner="anonymous",
            parameters=arrival.parameters,
            submitted_at=datetime.now(UTC),
        )
        due[job.id] = began + arrival.at_seconds
        await stores.jobs.submit(job)
        waiting.append(asyncio.create_task(await_end(job.id)))

    try:
        await _arrive(arrivals, began, submit)
        await asyncio.gather(*waiting)
    finally:
        worker.drain()
        await working
        await stores.close()
    return Service(tuple(ends[job_id] - due[job_id] for job_id in due), max(ends.values()) - began)


async def _serve_static(engine: Engine, arrivals: Sequence[Arrival], max_jobs: int) -> Service:
    queue: list[Arrival] = []
    has_come = asyncio.Event()
    latencies: list[float] = []
    encoding: list[asyncio.Task[None]] = []
    began = last_end = time.monotonic()
    loop = asyncio.get_running_loop()

    async def take(arrival: Arrival) -> None:
        queue.append(arrival)
        has_come.set()

    async def encode(arrival: Arrival, generation: Generation) -> None:
        nonlocal last_end
        await loop.run_in_executor(encoders, generation.encode_images)
        last_end = time.monotonic()
        latencies.append(last_end - began - arrival.at_seconds)

    coming = asyncio.create_task(_arrive(arrivals, began, take))
    with ThreadPoolExecutor(1) as thread, ThreadPoolExecutor(1) as encoders:
        while queue or not coming.done():
            if not queue:
                has_come.clear()
                with suppress(TimeoutError):  # the last may have come already
                    await asyncio.wait_for(has_come.wait(), 0.1)
                continue
            batch = [each for each in queue if each.parameters.steps == queue[0].parameters.steps][:max_jobs]
            queue[:] = [each for each in queue if each not in batch]
            generations = await loop.run_in_executor(thread, _draw, engine, batch)
            encoding += [
                asyncio.create_task(encode(arrival, generation))
                for arrival, generation in zip(batch, generations, strict=True)
            ]
        await asyncio.gather(*encoding)
    await coming
    return Service(tuple(latencies), last_end - began)


def _draw(engine: Engine, batch: Sequence[Arrival]) -> list[Generation]:
    generations = [engine.begin(each.parameters, {}) for each in batch]
    while not all(each.is_done for each in generations):
        engine.step(generations)
    for each in generations:
        assert each.error is None, each.error
    return generations
