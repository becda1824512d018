"""Real worker processes that are killed while they work: each job is still completed exactly once."""

import asyncio
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from easel_server.generation.job import Job, JobState
from easel_server.generation.request import WebhookTarget
from easel_server.stores.jobs.interface import JobBounds
from easel_server.stores.opening import Stores, open_stores

from tests.support.eventually import eventually
from tests.support.jobs import build_job
from tests.support.redis_server import RedisServer
from tests.support.stored_images import read_images

pytestmark = pytest.mark.redis

ROOT = Path(__file__).parents[3]


class WorkerProcesses:
    """Starts workers and sees to their end."""

    def __init__(self, url: str, namespace: str) -> None:
        self._url = url
        self._namespace = namespace
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, step_seconds: float) -> subprocess.Popen[bytes]:
        arguments = [self._url, self._namespace, name, str(step_seconds)]
        command = [sys.executable, "-m", "tests.support.worker_process", *arguments]
        self.processes.append(subprocess.Popen(command, cwd=ROOT))
        return self.processes[-1]


@pytest.fixture
def namespace() -> str:
    return uuid.uuid4().hex


@pytest.fixture
async def stores(redis_server: RedisServer, namespace: str) -> AsyncIterator[Stores]:
    stores = open_stores(redis_server.url, namespace=namespace, service="sd", bounds=JobBounds())
    yield stores
    await stores.close()


@pytest.fixture
def workers(redis_server: RedisServer, namespace: str) -> Iterator[WorkerProcesses]:
    workers = WorkerProcesses(redis_server.url, namespace)
    yield workers
    for process in workers.processes:
        process.kill()
        process.wait()


async def job_run_by(stores: Stores, job_id: str, worker: str) -> Job:
    async def look() -> Job | None:
        job = await stores.jobs.get(job_id)
        return job if job is not None and job.worker == worker else None

    job = await eventually(look, timeout_seconds=60)
    assert job is not None
    return job


async def deliver_all(stores: Stores) -> list[str]:
    """The jobs of all webhooks that are due, each received at once."""
    sent: list[str] = []
    while delivery := await stores.outbox.claim(lease_seconds=600, wait_seconds=0):
        sent.append(delivery.job.id)
        await stores.outbox.settle(delivery)
    return sent


async def test_a_job_whose_worker_is_killed_is_completed_once_by_another(
    stores: Stores, workers: WorkerProcesses
) -> None:
    await stores.jobs.submit(build_job("a", steps=20, webhook=WebhookTarget(url="http://receiver.example/")))
    first = workers.start("first", step_seconds=30)
    await job_run_by(stores, "a", "first")
    workers.start("second", step_seconds=0.01)
    first.kill()
    job = await stores.jobs.wait("a", 60)
    assert job is not None
    assert (job.state, job.worker, job.attempts) == (JobState.SUCCEEDED, "second", 2)
    assert await read_images(stores.jobs, "a") == (b"7 by second",)
    assert await stores.outbox.claim(lease_seconds=60, wait_seconds=0) is not None
    assert await stores.outbox.claim(lease_seconds=60, wait_seconds=0) is None


async def test_sigterm_lets_the_job_finish_and_the_process_ends(stores: Stores, workers: WorkerProcesses) -> None:
    await stores.jobs.submit(build_job("a", steps=40))
    process = workers.start("first", step_seconds=0.05)

    async def is_being_drawn() -> bool:
        job = await stores.jobs.get("a")
        return job is not None and job.steps_done > 0

    await eventually(is_being_drawn, timeout_seconds=60)
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 30) == 0
    job = await stores.jobs.get("a")
    assert job is not None
    assert job.state == JobState.SUCCEEDED  # 2 s of work fit into the drain


async def test_every_job_is_completed_once_while_workers_are_killed(stores: Stores, workers: WorkerProcesses) -> None:
    jobs = [f"job-{number}" for number in range(12)]
    for number, job_id in enumerate(jobs):
        webhook = WebhookTarget(url="http://receiver.example/")
        await stores.jobs.submit(build_job(job_id, seed=number, steps=10, webhook=webhook))
    victims = [workers.start(f"victim-{number}", step_seconds=0.1) for number in range(2)]
    for number, victim in enumerate(victims):

        async def is_at_work(name: str = f"victim-{number}") -> bool:
            found = [await stores.jobs.get(job_id) for job_id in jobs]
            return any(job is not None and job.worker == name for job in found)

        await eventually(is_at_work, timeout_seconds=60)
        victim.kill()
    workers.start("survivor", step_seconds=0.01)
    ended = [await stores.jobs.wait(job_id, 60) for job_id in jobs]
    assert [job.state for job in ended if job] == [JobState.SUCCEEDED] * len(jobs)
    for number, job in enumerate(ended):
        assert job is not None
        assert await read_images(stores.jobs, job.id) == (f"{number} by {job.worker}".encode(),)
    assert sorted(await deliver_all(stores)) == sorted(jobs)
