"""A call of the engine that never returns: the process says that it must end, and its jobs go to others."""

import asyncio
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from easel_server.api.app import build_probe_app
from easel_server.generation.job import JobState
from easel_server.stores.jobs.interface import Jobs
from easel_server.transport.probes import Readiness
from easel_server.worker.watchdog import LEAST_LIMIT_SECONDS, TIMES_LONGEST, Watchdog

from tests.inference_server.worker.workers import build_worker, final_job, generation_of, running
from tests.support.eventually import eventually
from tests.support.fake_engine import FakeEngine
from tests.support.jobs import build_job


class Clock:
    """Stands still unless a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_call_that_takes_longer_than_its_limit_is_named_and_others_are_not() -> None:
    clock = Clock()
    watchdog = Watchdog(30.0, clock)
    assert watchdog.find_stall() is None
    with watchdog.watching("a step"):
        clock.now += 30
        assert watchdog.find_stall() is None
        clock.now += 1
        assert "a step has taken 31 s, 30 s are allowed" in (watchdog.find_stall() or "")
    clock.now += 1000
    assert watchdog.find_stall() is None, "nothing is going on"


def test_without_a_limit_it_follows_from_the_longest_call_so_far() -> None:
    clock = Clock()
    watchdog = Watchdog(clock=clock)
    assert watchdog.limit_seconds == LEAST_LIMIT_SECONDS
    for seconds in (40.0, 1.0):
        with watchdog.watching("a step"):
            clock.now += seconds
    assert watchdog.limit_seconds == TIMES_LONGEST * 40


async def no_ping() -> None:
    """The store answers."""


@pytest.fixture
async def look() -> AsyncIterator[Callable[[Readiness], object]]:
    """The status and the text of a liveness probe."""
    clients: list[httpx.AsyncClient] = []

    async def ask(readiness: Readiness) -> tuple[int, str]:
        async def render(_is_labelled: bool) -> bytes:
            return b""

        transport = httpx.ASGITransport(app=build_probe_app(readiness, render))
        clients.append(httpx.AsyncClient(transport=transport, base_url="http://worker"))
        answer = await clients[-1].get("/healthz")
        return answer.status_code, answer.text

    yield ask
    for client in clients:
        await client.aclose()


async def test_a_hung_engine_fails_the_liveness_probe_and_its_jobs_are_done_by_another(store: Jobs, look) -> None:
    hung = FakeEngine(gated=True)  # its step is never allowed
    worker, _ = build_worker(store, hung, lease_seconds=0.3, step_timeout_seconds=0.1, step_limit_seconds=0.01)
    readiness = Readiness(no_ping)
    readiness.watch_life(worker.find_stall)
    assert await look(readiness) == (200, "ok\n")
    async with running(worker):
        await store.submit(build_job("a"))
        await generation_of(hung, 7)

        async def is_stalled() -> bool:
            return (await look(readiness))[0] == 503

        await eventually(is_stalled)
        assert "the engine hangs: a step has taken" in (await look(readiness))[1]

        async def is_free() -> bool:
            await store.reap()
            job = await store.get("a")
            return job is not None and job.state == JobState.WAITING

        await eventually(is_free)
        worker.drain()
        async with running(build_worker(store, FakeEngine())[0]):
            job = await final_job(store, "a")
    assert (job.state, job.attempts) == (JobState.SUCCEEDED, 2)
    hung.allow(100)


async def test_a_hung_workers_drain_waits_for_nothing(store: Jobs) -> None:
    hung = FakeEngine(gated=True)
    worker, _ = build_worker(store, hung, drain_seconds=1000.0, step_timeout_seconds=0.05, step_limit_seconds=0.01)
    task = asyncio.create_task(worker.run())
    await store.submit(build_job("a"))

    async def is_stalled() -> bool:
        return worker.find_stall() is not None

    await eventually(is_stalled)
    worker.drain()
    await asyncio.wait_for(task, 20)
    hung.allow(100)
