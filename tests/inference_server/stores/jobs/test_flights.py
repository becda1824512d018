"""Equal jobs that are under way at the same time are generated once, in all stores."""

import asyncio
from collections import Counter

import pytest
from easel_contract.server_config import Priority
from easel_server.generation import messages
from easel_server.generation.job import Job, JobState
from easel_server.generation.request import WebhookTarget
from easel_server.stores.jobs.interface import (
    Canceled,
    Failed,
    HeartbeatReply,
    JobBounds,
    Jobs,
    QueuePosition,
    ReapReport,
    SubmitReply,
)
from easel_server.stores.opening import Stores

from tests.inference_server.stores.conftest import BuildStores
from tests.inference_server.stores.steps import (
    IMAGES,
    LONG_SECONDS,
    SHORT_SECONDS,
    claim,
    claim_ids,
    claim_nothing,
    is_empty,
    job_of,
    reap_something,
    run_next,
)
from tests.support.eventually import eventually
from tests.support.jobs import build_job
from tests.support.stored_images import read_images, succeed

FLIGHT = "the same image"
HOOK = WebhookTarget(url="http://receiver.example/", events=("start", "completed"))


async def board(jobs: Jobs, job_id: str, *, owner: str = "anonymous", **changes: object) -> SubmitReply:
    """Submit a job of the flight."""
    job = build_job(job_id, owner=owner).model_copy(update=changes)
    return await jobs.submit(job, flight_key=FLIGHT)


async def states(jobs: Jobs, *job_ids: str) -> list[JobState]:
    return [(await job_of(jobs, job_id)).state for job_id in job_ids]


async def test_equal_jobs_are_generated_once_and_all_get_the_images(jobs: Jobs) -> None:
    shared = [(await board(jobs, name, owner=name)).shared for name in ("first", "second", "third")]
    assert shared == [False, True, True]
    await jobs.submit(build_job("another"))
    assert (await jobs.depth()).waiting == 2  # followers are no work
    running = await claim(jobs)
    assert running.job.id == "first"
    await jobs.heartbeat(running, 3, previews=[b"half"])
    third = await job_of(jobs, "third")
    assert (third.state, third.steps_done, third.attempts, third.worker) == (JobState.RUNNING, 3, 1, "worker-a")
    assert third.owner == "third"
    assert await jobs.previews("third") == (b"half",)
    assert await succeed(jobs, running, IMAGES)
    for name in ("first", "second", "third"):
        job = await job_of(jobs, name)
        assert (job.state, job.steps_done) == (JobState.SUCCEEDED, job.parameters.steps)
        assert await read_images(jobs, name) == IMAGES
    assert await claim_ids(jobs, 1) == ["another"]
    assert await claim_nothing(jobs)


async def test_a_flight_is_over_with_its_end(jobs: Jobs) -> None:
    await board(jobs, "first")
    await run_next(jobs)
    assert not (await board(jobs, "later")).shared
    assert await claim_ids(jobs, 1) == ["later"]


async def test_a_job_that_comes_while_an_equal_one_runs_follows_it(jobs: Jobs) -> None:
    await board(jobs, "first")
    running = await claim(jobs)
    late = await board(jobs, "late")
    assert (late.created, late.shared, late.job.state) == (True, True, JobState.RUNNING)
    assert late.job.started_at == running.job.started_at
    again = await board(jobs, "late")
    assert (again.created, again.shared) == (False, False)
    await jobs.finish(running, Failed("no"))
    assert (await job_of(jobs, "late")).error == "no"


async def test_only_jobs_of_the_same_flight_are_shared(jobs: Jobs) -> None:
    await jobs.submit(build_job("a"), flight_key="one")
    await jobs.submit(build_job("b"), flight_key="two")
    await jobs.submit(build_job("c"))
    await jobs.submit(build_job("d"))
    assert await claim_ids(jobs, 4) == ["a", "b", "c", "d"]


async def test_followers_wait_in_their_leaders_place(jobs: Jobs) -> None:
    await jobs.submit(build_job("ahead"))
    await board(jobs, "first")
    await jobs.submit(build_job("between"))
    await board(jobs, "second")
    assert await jobs.position("second") == await jobs.position("first") == QueuePosition(1, 1.0)


async def test_a_follower_of_higher_priority_takes_the_flight_with_it(jobs: Jobs) -> None:
    await board(jobs, "low", priority=Priority.LOW)
    await jobs.submit(build_job("normal"))
    await board(jobs, "high", priority=Priority.HIGH)
    await board(jobs, "lower again", priority=Priority.LOW)
    assert await jobs.position("low") == QueuePosition(0, 0.0)
    assert await claim_ids(jobs, 2) == ["low", "normal"]


async def test_a_flight_that_was_released_can_be_taken_along_too(jobs: Jobs) -> None:
    await board(jobs, "low", priority=Priority.LOW)
    await jobs.release(await claim(jobs))
    await jobs.submit(build_job("normal"))
    await board(jobs, "high", priority=Priority.HIGH)
    held = await claim(jobs)
    assert held.job.id == "low"
    assert await jobs.release(held)
    await jobs.submit(build_job("also high", priority=Priority.HIGH))
    assert await claim_ids(jobs, 3) == ["low", "also high", "normal"]


async def test_a_full_queue_takes_followers_since_they_are_no_work(build_stores: BuildStores) -> None:
    jobs = build_stores(JobBounds(max_queue_depth=1)).jobs
    await board(jobs, "first")
    assert (await board(jobs, "second")).shared


@pytest.mark.parametrize("is_running", [False, True], ids=["waiting", "running"])
async def test_a_leader_that_is_canceled_leaves_the_work_to_its_followers(jobs: Jobs, is_running: bool) -> None:
    for name in ("first", "second", "third"):
        await board(jobs, name)
    await jobs.submit(build_job("behind"))
    held = await claim(jobs) if is_running else None
    canceled = await jobs.cancel("first")
    assert canceled is not None
    assert (canceled.state, canceled.cancel_requested) == (JobState.CANCELED, True)
    held = held or await claim(jobs)
    assert held.job.id == ("first" if is_running else "second")  # at the same place
    assert await jobs.heartbeat(held, 2) == HeartbeatReply.CONTINUE
    assert await succeed(jobs, held, IMAGES)
    assert await succeed(jobs, held, IMAGES)  # repeated
    assert await states(jobs, "first", "second", "third") == [
        JobState.CANCELED,
        JobState.SUCCEEDED,
        JobState.SUCCEEDED,
    ]
    assert await read_images(jobs, "first") == ()
    assert await read_images(jobs, "third") == IMAGES


async def test_a_follower_that_is_canceled_leaves_the_others_alone(jobs: Jobs) -> None:
    for name in ("first", "second", "third"):
        await board(jobs, name)
    held = await claim(jobs)
    await jobs.cancel("second")
    assert await states(jobs, "first", "second", "third") == [
        JobState.RUNNING,
        JobState.CANCELED,
        JobState.RUNNING,
    ]
    assert await jobs.heartbeat(held, 2) == HeartbeatReply.CONTINUE
    assert await succeed(jobs, held, IMAGES)
    assert await states(jobs, "second", "third") == [JobState.CANCELED, JobState.SUCCEEDED]


@pytest.mark.parametrize("is_running", [False, True], ids=["waiting", "running"])
async def test_the_work_ends_when_nobody_is_left(jobs: Jobs, is_running: bool) -> None:
    await board(jobs, "first")
    await board(jobs, "second")
    held = await claim(jobs) if is_running else None
    await jobs.cancel("second")
    await jobs.cancel("first")
    if held is not None:
        assert await jobs.heartbeat(held, 2) == HeartbeatReply.CANCEL
        assert await jobs.finish(held, Canceled())
    assert await states(jobs, "first", "second") == [JobState.CANCELED] * 2
    assert await is_empty(jobs)


async def test_nobody_joins_work_that_is_being_canceled(jobs: Jobs) -> None:
    await board(jobs, "first")
    held = await claim(jobs)
    await jobs.cancel("first")
    assert not (await board(jobs, "second")).shared
    await jobs.finish(held, Canceled())
    assert await claim_ids(jobs, 1) == ["second"]


async def test_nobody_joins_work_whose_deadline_has_passed(jobs: Jobs) -> None:
    deadline_at = build_job("x", deadline_seconds=SHORT_SECONDS).deadline_at
    await board(jobs, "first", deadline_at=deadline_at)
    held = await claim(jobs)

    async def is_late() -> bool:
        return await jobs.heartbeat(held, 1) == HeartbeatReply.DEADLINE_PASSED

    await eventually(is_late)
    assert not (await board(jobs, "second")).shared


@pytest.mark.parametrize("is_running", [False, True], ids=["waiting", "running"])
async def test_a_follower_s_deadline_is_its_own(jobs: Jobs, is_running: bool) -> None:
    await board(jobs, "first")
    held = await claim(jobs) if is_running else None
    deadline_at = build_job("x", deadline_seconds=SHORT_SECONDS).deadline_at
    await board(jobs, "hasty", deadline_at=deadline_at)
    assert await reap_something(jobs) == ReapReport(failed=1)
    hasty = await job_of(jobs, "hasty")
    assert (hasty.state, hasty.error) == (JobState.FAILED, messages.DEADLINE_PASSED)
    held = held or await claim(jobs)
    assert await succeed(jobs, held, IMAGES)
    assert (await job_of(jobs, "first")).state == JobState.SUCCEEDED


@pytest.mark.parametrize("is_running", [False, True], ids=["waiting", "running"])
async def test_a_leader_s_deadline_ends_only_the_leader(jobs: Jobs, is_running: bool) -> None:
    deadline_at = build_job("x", deadline_seconds=SHORT_SECONDS if not is_running else 1.0).deadline_at
    await board(jobs, "hasty", deadline_at=deadline_at)
    held = await claim(jobs) if is_running else None
    await board(jobs, "patient")
    if held is None:
        await reap_something(jobs)
        assert (await job_of(jobs, "patient")).state == JobState.WAITING
        held = await claim(jobs)
    else:

        async def is_over() -> bool:
            assert held is not None
            assert await jobs.heartbeat(held, 1) == HeartbeatReply.CONTINUE
            return (await job_of(jobs, "hasty")).state == JobState.FAILED

        await eventually(is_over)
    assert await succeed(jobs, held, IMAGES)
    assert await states(jobs, "hasty", "patient") == [JobState.FAILED, JobState.SUCCEEDED]


async def test_the_deadline_of_a_job_that_has_come_to_lead_a_running_flight_is_its_worker_s_to_meet(
    jobs: Jobs,
) -> None:
    await board(jobs, "first")
    held = await claim(jobs)
    await board(jobs, "next", deadline_at=build_job("x", deadline_seconds=1.0).deadline_at)
    await jobs.cancel("first")

    async def is_late() -> bool:
        assert await jobs.reap() == ReapReport()
        return await jobs.heartbeat(held, 1) == HeartbeatReply.DEADLINE_PASSED

    await eventually(is_late)
    assert await jobs.finish(held, Failed(messages.DEADLINE_PASSED))
    assert (await job_of(jobs, "next")).state == JobState.FAILED


async def test_a_lost_worker_s_flight_is_generated_again_by_another(jobs: Jobs) -> None:
    await board(jobs, "first")
    await board(jobs, "second")
    lost = await claim(jobs, lease_seconds=SHORT_SECONDS)
    await jobs.cancel("first")
    assert await reap_something(jobs) == ReapReport(requeued=1)
    second = await job_of(jobs, "second")
    assert (second.state, second.attempts, second.worker) == (JobState.WAITING, 1, None)
    assert (await board(jobs, "third")).shared
    current = await claim(jobs)
    assert (current.job.id, current.job.attempts) == ("second", 2)
    assert await jobs.heartbeat(lost, 2) == HeartbeatReply.LOST
    assert not await succeed(jobs, lost, (b"stale",))
    assert await succeed(jobs, current, IMAGES)
    assert await read_images(jobs, "third") == IMAGES


async def test_a_flight_that_loses_its_workers_too_often_fails_for_all(build_stores: BuildStores) -> None:
    jobs = build_stores(JobBounds(max_attempts=1)).jobs
    await board(jobs, "first")
    await board(jobs, "second")
    await claim(jobs, lease_seconds=SHORT_SECONDS)
    await reap_something(jobs)
    assert await states(jobs, "first", "second") == [JobState.FAILED] * 2


async def test_a_released_flight_stays_together(jobs: Jobs) -> None:
    await board(jobs, "first")
    held = await claim(jobs)
    await board(jobs, "second")
    assert await jobs.release(held)
    assert await states(jobs, "first", "second") == [JobState.WAITING] * 2
    await run_next(jobs)
    assert await states(jobs, "first", "second") == [JobState.SUCCEEDED] * 2


async def test_each_job_of_a_flight_reports_to_its_own_client(stores: Stores) -> None:
    jobs = stores.jobs
    await board(jobs, "first", webhook=HOOK)
    await board(jobs, "second", webhook=HOOK)
    await board(jobs, "canceled", webhook=HOOK)
    await jobs.cancel("canceled")
    await run_next(jobs)
    sent: dict[str, Job] = {}
    while delivery := await stores.outbox.claim(lease_seconds=LONG_SECONDS, wait_seconds=0):
        sent[delivery.id] = delivery.job
        await stores.outbox.settle(delivery)
    assert set(sent) == {f"{name}.{event}" for name in ("first", "second", "canceled") for event in HOOK.events}
    assert sent["second.start"].state == JobState.WAITING
    assert sent["canceled.completed"].cancel_requested
    assert Counter(job.state for name, job in sent.items() if name.endswith("completed")) == Counter(
        {JobState.SUCCEEDED: 2, JobState.CANCELED: 1}
    )
    for name in ("first", "second", "canceled"):
        assert sent[f"{name}.completed"] == await jobs.get(name)


async def test_clients_of_a_flight_hear_of_its_end(jobs: Jobs) -> None:
    await board(jobs, "first")
    await board(jobs, "second")
    waits = [asyncio.create_task(jobs.wait(name, 30)) for name in ("first", "second")]
    await asyncio.sleep(0)
    await run_next(jobs)
    done = await asyncio.wait_for(asyncio.gather(*waits), 10)
    assert [job.state for job in done if job] == [JobState.SUCCEEDED] * 2


@pytest.mark.redis
@pytest.mark.parametrize("build_stores", ["redis", "redis-cluster"], indirect=True)  # in memory there is one store
async def test_images_of_a_flight_are_kept_as_long_as_its_most_patient_job(build_stores: BuildStores) -> None:
    hasty = build_stores(JobBounds(result_ttl_seconds=0.05)).jobs
    patient = build_stores(JobBounds(result_ttl_seconds=LONG_SECONDS)).jobs
    await board(hasty, "first")
    await board(patient, "second")
    await run_next(hasty)

    async def is_forgotten() -> bool:
        return await hasty.get("first") is None

    await eventually(is_forgotten)
    assert await read_images(patient, "second") == IMAGES


async def test_a_flight_is_bounded(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("jobs.memory", "jobs.redis_fields"):
        monkeypatch.setattr(f"easel_server.stores.{module}.MAX_FOLLOWERS", 2)
    shared = [(await board(jobs, f"job-{number}")).shared for number in range(5)]
    assert shared == [False, True, True, False, False]
    assert (await jobs.depth()).waiting == 3
