"""What tests of the stores do again and again."""

import dataclasses

from easel_server.generation.job import Job
from easel_server.stores.jobs.interface import Claim, Jobs, QueueDepth, ReapReport

from tests.support.eventually import eventually
from tests.support.stored_images import succeed

LONG_SECONDS = 60.0
SHORT_SECONDS = 0.03
IMAGES = (b"\x89PNG\x00\xff one", b"two")


async def claim(jobs: Jobs, worker: str = "worker-a", lease_seconds: float = LONG_SECONDS) -> Claim:
    """The next job; fails if none waits."""
    (claimed,) = await jobs.claim(worker, lease_seconds=lease_seconds, wait_seconds=0)
    return claimed


async def claim_ids(jobs: Jobs, count: int) -> list[str]:
    """Ids of the next jobs, in the order of their turns."""
    return [(await claim(jobs)).job.id for _ in range(count)]


async def claim_nothing(jobs: Jobs) -> bool:
    """Whether nothing waits."""
    return await jobs.claim("worker-a", lease_seconds=LONG_SECONDS, wait_seconds=0) == ()


async def run_next(jobs: Jobs) -> Job:
    """The next job, run to its end."""
    claimed = await claim(jobs)
    assert await succeed(jobs, claimed, IMAGES)
    return claimed.job


async def job_of(jobs: Jobs, job_id: str) -> Job:
    """The job; fails if unknown."""
    job = await jobs.get(job_id)
    assert job is not None
    return job


async def is_empty(jobs: Jobs) -> bool:
    """Whether nothing waits or runs."""
    return dataclasses.replace(await jobs.depth(), workers=0, engine_failures=0) == QueueDepth(0, 0, 0)


async def reap_something(jobs: Jobs) -> ReapReport:
    """The report of the first reap that moves a job."""

    async def reap() -> ReapReport | None:
        report = await jobs.reap()
        return report if report != ReapReport() else None

    report = await eventually(reap)
    assert report is not None
    return report
