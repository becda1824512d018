"""What becomes of jobs whose worker releases them, is lost or is asked to stop, in all stores."""

import asyncio

from easel_server.generation import messages
from easel_server.generation.job import JobState
from easel_server.stores.jobs.interface import Canceled, HeartbeatReply, JobBounds, Jobs, ReapReport

from tests.inference_server.stores.conftest import BuildStores
from tests.inference_server.stores.steps import (
    IMAGES,
    LONG_SECONDS,
    SHORT_SECONDS,
    claim,
    is_empty,
    job_of,
    reap_something,
)
from tests.support.eventually import eventually
from tests.support.jobs import build_job
from tests.support.stored_images import succeed

# Leases


async def test_a_heartbeat_extends_the_lease_and_records_progress(jobs: Jobs) -> None:
    await jobs.submit(build_job("a"))
    claimed = await claim(jobs, lease_seconds=2.0)
    extended_until = asyncio.get_running_loop().time() + 2.5

    async def beat() -> bool:
        assert await jobs.heartbeat(claimed, 3) == HeartbeatReply.CONTINUE
        assert await jobs.reap() == ReapReport()
        return asyncio.get_running_loop().time() > extended_until

    await eventually(beat)
    assert (await job_of(jobs, "a")).steps_done == 3
    assert (await reap_something(jobs)).requeued == 1  # and without heartbeats it ends


async def test_a_job_of_a_lost_worker_returns_ahead_of_later_ones(jobs: Jobs) -> None:
    await jobs.submit(build_job("first"))
    await jobs.submit(build_job("second"))
    await claim(jobs, lease_seconds=SHORT_SECONDS)
    await reap_something(jobs)
    job = await job_of(jobs, "first")
    assert (job.state, job.worker, job.attempts, job.steps_done) == (JobState.WAITING, None, 1, 0)
    again = await claim(jobs)
    assert (again.job.id, again.job.attempts) == ("first", 2)


async def test_a_job_that_loses_its_worker_too_often_fails_and_says_so(build_stores: BuildStores) -> None:
    jobs = build_stores(JobBounds(max_attempts=2)).jobs
    await jobs.submit(build_job("a"))
    await claim(jobs, "worker-a", lease_seconds=SHORT_SECONDS)
    assert (await reap_something(jobs)) == ReapReport(requeued=1)
    await claim(jobs, "worker-b", lease_seconds=SHORT_SECONDS)
    assert (await reap_something(jobs)) == ReapReport(failed=1)
    job = await job_of(jobs, "a")
    assert job.state == JobState.FAILED
    assert job.error == messages.LOST % (2, "worker-b")
    assert await is_empty(jobs)


async def test_concurrent_reaps_move_each_job_once(build_stores: BuildStores) -> None:
    jobs = build_stores().jobs
    for number in range(20):
        await jobs.submit(build_job(f"job-{number}"))
        await claim(jobs, lease_seconds=0.001)
    requeued = 0

    async def all_are_back() -> bool:
        nonlocal requeued
        requeued += sum(report.requeued for report in await asyncio.gather(*(jobs.reap() for _ in range(5))))
        return (await jobs.depth()).running == 0

    await eventually(all_are_back)
    assert requeued == 20
    assert [(await claim(jobs)).job.id for _ in range(20)] == [f"job-{number}" for number in range(20)]


# Release


async def test_a_released_job_is_the_next_one_and_its_attempt_is_not_counted(jobs: Jobs) -> None:
    for name in ("first", "second", "third"):
        await jobs.submit(build_job(name))
    first, second = await claim(jobs), await claim(jobs)
    assert await jobs.release(first)
    assert await jobs.release(second)
    assert (await job_of(jobs, "first")).state == JobState.WAITING
    claimed = [await claim(jobs) for _ in range(3)]
    assert [entry.job.id for entry in claimed] == ["first", "second", "third"]
    assert claimed[0].job.attempts == 1


async def test_a_release_wakes_a_waiting_claim(jobs: Jobs) -> None:
    await jobs.submit(build_job("a"))
    held = await claim(jobs)
    claiming = asyncio.create_task(jobs.claim("w", lease_seconds=LONG_SECONDS, wait_seconds=20))
    await asyncio.sleep(0)
    await jobs.release(held)
    assert len(await asyncio.wait_for(claiming, 5)) == 1


async def test_a_released_job_that_was_to_be_canceled_is_canceled(jobs: Jobs) -> None:
    await jobs.submit(build_job("a"))
    held = await claim(jobs)
    await jobs.cancel("a")
    assert await jobs.release(held)
    assert (await job_of(jobs, "a")).state == JobState.CANCELED


# Cancel


async def test_canceling_a_waiting_job_ends_it_at_once(jobs: Jobs) -> None:
    await jobs.submit(build_job("a"))
    job = await jobs.cancel("a")
    assert job is not None
    assert job.state == JobState.CANCELED
    assert job.finished_at is not None
    assert await jobs.claim("w", lease_seconds=1, wait_seconds=0) == ()
    assert await is_empty(jobs)


async def test_canceling_a_running_job_asks_its_worker_to_stop(jobs: Jobs) -> None:
    await jobs.submit(build_job("a"))
    claimed = await claim(jobs)
    job = await jobs.cancel("a")
    assert job is not None
    assert (job.state, job.cancel_requested) == (JobState.RUNNING, True)
    assert await jobs.heartbeat(claimed, 2) == HeartbeatReply.CANCEL
    assert await jobs.finish(claimed, Canceled())
    assert (await job_of(jobs, "a")).state == JobState.CANCELED


async def test_canceling_a_finished_job_changes_nothing(jobs: Jobs) -> None:
    await jobs.submit(build_job("a"))
    await succeed(jobs, await claim(jobs), IMAGES)
    before = await jobs.get("a")
    assert await jobs.cancel("a") == before
    assert before is not None
    assert not before.cancel_requested


async def test_a_canceled_job_whose_worker_is_lost_is_canceled_not_repeated(jobs: Jobs) -> None:
    await jobs.submit(build_job("a"))
    await claim(jobs, lease_seconds=SHORT_SECONDS)
    await jobs.cancel("a")
    assert await reap_something(jobs) == ReapReport(canceled=1)
    assert (await job_of(jobs, "a")).state == JobState.CANCELED


# Deadlines


async def test_a_waiting_job_past_its_deadline_fails(jobs: Jobs) -> None:
    await jobs.submit(build_job("a", deadline_seconds=SHORT_SECONDS))
    assert await reap_something(jobs) == ReapReport(failed=1)
    job = await job_of(jobs, "a")
    assert (job.state, job.error) == (JobState.FAILED, messages.DEADLINE_PASSED)


async def test_a_job_past_its_deadline_is_not_claimed(jobs: Jobs) -> None:
    late = build_job("late", deadline_seconds=-1)
    await jobs.submit(late)
    await jobs.submit(build_job("in-time", deadline_seconds=LONG_SECONDS))
    assert (await claim(jobs)).job.id == "in-time"
    assert (await job_of(jobs, "late")).state == JobState.FAILED


async def test_a_running_job_past_its_deadline_hears_so_by_the_heartbeat(jobs: Jobs) -> None:
    await jobs.submit(build_job("a", deadline_seconds=0.2))
    claimed = await claim(jobs)

    async def passed() -> bool:
        return await jobs.heartbeat(claimed, 1) == HeartbeatReply.DEADLINE_PASSED

    assert await eventually(passed)
    assert await jobs.reap() == ReapReport()  # it is the worker's to finish


# Attempts that failed by no fault of the job's


async def test_a_job_whose_attempt_failed_returns_to_the_head_and_the_attempt_counts(jobs: Jobs) -> None:
    await jobs.submit(build_job("first"))
    await jobs.submit(build_job("second"))
    claimed = await claim(jobs)
    assert await jobs.retry(claimed, "the engine failed") == JobState.WAITING
    job = await job_of(jobs, "first")
    assert (job.state, job.worker, job.attempts, job.error) == (JobState.WAITING, None, 1, None)
    assert (await claim(jobs)).job.id == "first"
    assert await jobs.retry(claimed, "the engine failed") is None, "the claim is held no longer"
    assert (await jobs.depth()).engine_failures == 1


async def test_after_the_last_attempt_a_job_fails_with_the_error(build_stores: BuildStores) -> None:
    jobs = build_stores(JobBounds(max_attempts=2)).jobs
    await jobs.submit(build_job("a"))
    states = [await jobs.retry(await claim(jobs), f"failure {number}") for number in range(2)]
    assert states == [JobState.WAITING, JobState.FAILED]
    job = await job_of(jobs, "a")
    assert (job.state, job.error, job.attempts) == (JobState.FAILED, "failure 1", 2)
    assert await is_empty(jobs)


async def test_a_job_whose_cancel_was_asked_for_is_not_retried(jobs: Jobs) -> None:
    await jobs.submit(build_job("a"))
    claimed = await claim(jobs)
    await jobs.cancel("a")
    assert await jobs.retry(claimed, "the engine failed") == JobState.CANCELED
    assert await is_empty(jobs)
