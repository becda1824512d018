"""Equal jobs that are under way at the same time are drawn once, on both brokers."""

import asyncio
from collections import Counter

import pytest
from easel_contract.server_config import Priority
from easel_server.generation import messages
from easel_server.generation.job import Job, JobState
from easel_server.generation.request import WebhookTarget
from easel_server.stores.interface import Broker
from easel_server.stores.jobs.interface import (
    BrokerSettings,
    Canceled,
    Failed,
    QueuePosition,
    ReapReport,
    Submission,
    Succeeded,
    Verdict,
)

from tests.inference_server.stores.conftest import BuildBroker
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

FLIGHT = "the same picture"
HOOK = WebhookTarget(url="http://receiver.example/", events=("start", "completed"))


async def board(broker: Broker, job_id: str, *, owner: str = "anonymous", **changes: object) -> Submission:
    """Submit a job of the flight."""
    job = build_job(job_id, owner=owner).model_copy(update=changes)
    return await broker.submit(job, flight_key=FLIGHT)


async def states(broker: Broker, *job_ids: str) -> list[JobState]:
    return [(await job_of(broker, job_id)).state for job_id in job_ids]


async def test_equal_jobs_are_drawn_once_and_all_get_the_pictures(broker: Broker) -> None:
    shared = [(await board(broker, name, owner=name)).shared for name in ("first", "second", "third")]
    assert shared == [False, True, True]
    await broker.submit(build_job("another"))
    assert (await broker.depth()).waiting == 2  # followers are no work
    running = await claim(broker)
    assert running.job.id == "first"
    await broker.heartbeat(running, 3, previews=[b"half"])
    third = await job_of(broker, "third")
    assert (third.state, third.steps_done, third.attempts, third.worker) == (JobState.RUNNING, 3, 1, "worker-a")
    assert third.owner == "third"
    assert await broker.previews("third") == (b"half",)
    assert await broker.finish(running, Succeeded(IMAGES))
    for name in ("first", "second", "third"):
        job = await job_of(broker, name)
        assert (job.state, job.steps_done) == (JobState.SUCCEEDED, job.parameters.steps)
        assert await broker.images(name) == IMAGES
    assert await claim_ids(broker, 1) == ["another"]
    assert await claim_nothing(broker)


async def test_a_flight_is_over_with_its_end(broker: Broker) -> None:
    await board(broker, "first")
    await run_next(broker)
    assert not (await board(broker, "later")).shared
    assert await claim_ids(broker, 1) == ["later"]


async def test_a_job_that_comes_while_an_equal_one_runs_follows_it(broker: Broker) -> None:
    await board(broker, "first")
    running = await claim(broker)
    late = await board(broker, "late")
    assert (late.created, late.shared, late.job.state) == (True, True, JobState.RUNNING)
    assert late.job.started_at == running.job.started_at
    again = await board(broker, "late")
    assert (again.created, again.shared) == (False, False)
    await broker.finish(running, Failed("no"))
    assert (await job_of(broker, "late")).error == "no"


async def test_only_jobs_of_the_same_flight_are_shared(broker: Broker) -> None:
    await broker.submit(build_job("a"), flight_key="one")
    await broker.submit(build_job("b"), flight_key="two")
    await broker.submit(build_job("c"))
    await broker.submit(build_job("d"))
    assert await claim_ids(broker, 4) == ["a", "b", "c", "d"]


async def test_followers_wait_in_their_leaders_place(broker: Broker) -> None:
    await broker.submit(build_job("ahead"))
    await board(broker, "first")
    await broker.submit(build_job("between"))
    await board(broker, "second")
    assert await broker.position("second") == await broker.position("first") == QueuePosition(1, 1.0)


async def test_a_follower_of_higher_priority_takes_the_flight_with_it(broker: Broker) -> None:
    await board(broker, "low", priority=Priority.LOW)
    await broker.submit(build_job("normal"))
    await board(broker, "high", priority=Priority.HIGH)
    await board(broker, "lower again", priority=Priority.LOW)
    assert await broker.position("low") == QueuePosition(0, 0.0)
    assert await claim_ids(broker, 2) == ["low", "normal"]


async def test_a_flight_that_was_given_back_can_be_taken_along_too(broker: Broker) -> None:
    await board(broker, "low", priority=Priority.LOW)
    await broker.release(await claim(broker))
    await broker.submit(build_job("normal"))
    await board(broker, "high", priority=Priority.HIGH)
    held = await claim(broker)
    assert held.job.id == "low"
    assert await broker.release(held)
    await broker.submit(build_job("also high", priority=Priority.HIGH))
    assert await claim_ids(broker, 3) == ["low", "also high", "normal"]


async def test_a_full_queue_takes_followers_since_they_are_no_work(build_broker: BuildBroker) -> None:
    broker = build_broker(BrokerSettings(max_queue_depth=1))
    await board(broker, "first")
    assert (await board(broker, "second")).shared


@pytest.mark.parametrize("is_running", [False, True], ids=["waiting", "running"])
async def test_a_leader_that_is_canceled_leaves_the_work_to_its_followers(broker: Broker, is_running: bool) -> None:
    for name in ("first", "second", "third"):
        await board(broker, name)
    await broker.submit(build_job("behind"))
    held = await claim(broker) if is_running else None
    canceled = await broker.cancel("first")
    assert canceled is not None
    assert (canceled.state, canceled.cancel_requested) == (JobState.CANCELED, True)
    held = held or await claim(broker)
    assert held.job.id == ("first" if is_running else "second")  # at the same place
    assert await broker.heartbeat(held, 2) == Verdict.CONTINUE
    assert await broker.finish(held, Succeeded(IMAGES))
    assert await broker.finish(held, Succeeded(IMAGES))  # repeated
    assert await states(broker, "first", "second", "third") == [
        JobState.CANCELED,
        JobState.SUCCEEDED,
        JobState.SUCCEEDED,
    ]
    assert await broker.images("first") == ()
    assert await broker.images("third") == IMAGES


async def test_a_follower_that_is_canceled_leaves_the_others_alone(broker: Broker) -> None:
    for name in ("first", "second", "third"):
        await board(broker, name)
    held = await claim(broker)
    await broker.cancel("second")
    assert await states(broker, "first", "second", "third") == [
        JobState.RUNNING,
        JobState.CANCELED,
        JobState.RUNNING,
    ]
    assert await broker.heartbeat(held, 2) == Verdict.CONTINUE
    assert await broker.finish(held, Succeeded(IMAGES))
    assert await states(broker, "second", "third") == [JobState.CANCELED, JobState.SUCCEEDED]


@pytest.mark.parametrize("is_running", [False, True], ids=["waiting", "running"])
async def test_the_work_ends_when_nobody_is_left(broker: Broker, is_running: bool) -> None:
    await board(broker, "first")
    await board(broker, "second")
    held = await claim(broker) if is_running else None
    await broker.cancel("second")
    await broker.cancel("first")
    if held is not None:
        assert await broker.heartbeat(held, 2) == Verdict.CANCEL
        assert await broker.finish(held, Canceled())
    assert await states(broker, "first", "second") == [JobState.CANCELED] * 2
    assert await is_empty(broker)


async def test_nobody_joins_work_that_is_being_canceled(broker: Broker) -> None:
    await board(broker, "first")
    held = await claim(broker)
    await broker.cancel("first")
    assert not (await board(broker, "second")).shared
    await broker.finish(held, Canceled())
    assert await claim_ids(broker, 1) == ["second"]


async def test_nobody_joins_work_whose_deadline_has_passed(broker: Broker) -> None:
    deadline_at = build_job("x", deadline_seconds=SHORT_SECONDS).deadline_at
    await board(broker, "first", deadline_at=deadline_at)
    held = await claim(broker)

    async def is_late() -> bool:
        return await broker.heartbeat(held, 1) == Verdict.DEADLINE_PASSED

    await eventually(is_late)
    assert not (await board(broker, "second")).shared


@pytest.mark.parametrize("is_running", [False, True], ids=["waiting", "running"])
async def test_a_follower_s_deadline_is_its_own(broker: Broker, is_running: bool) -> None:
    await board(broker, "first")
    held = await claim(broker) if is_running else None
    deadline_at = build_job("x", deadline_seconds=SHORT_SECONDS).deadline_at
    await board(broker, "hasty", deadline_at=deadline_at)
    assert await reap_something(broker) == ReapReport(failed=1)
    hasty = await job_of(broker, "hasty")
    assert (hasty.state, hasty.error) == (JobState.FAILED, messages.DEADLINE_PASSED)
    held = held or await claim(broker)
    assert await broker.finish(held, Succeeded(IMAGES))
    assert (await job_of(broker, "first")).state == JobState.SUCCEEDED


@pytest.mark.parametrize("is_running", [False, True], ids=["waiting", "running"])
async def test_a_leader_s_deadline_ends_only_the_leader(broker: Broker, is_running: bool) -> None:
    deadline_at = build_job("x", deadline_seconds=SHORT_SECONDS if not is_running else 1.0).deadline_at
    await board(broker, "hasty", deadline_at=deadline_at)
    held = await claim(broker) if is_running else None
    await board(broker, "patient")
    if held is None:
        await reap_something(broker)
        assert (await job_of(broker, "patient")).state == JobState.WAITING
        held = await claim(broker)
    else:

        async def is_over() -> bool:
            assert held is not None
            assert await broker.heartbeat(held, 1) == Verdict.CONTINUE
            return (await job_of(broker, "hasty")).state == JobState.FAILED

        await eventually(is_over)
    assert await broker.finish(held, Succeeded(IMAGES))
    assert await states(broker, "hasty", "patient") == [JobState.FAILED, JobState.SUCCEEDED]


async def test_the_deadline_of_a_job_that_has_come_to_lead_a_running_flight_is_its_worker_s_to_meet(
    broker: Broker,
) -> None:
    await board(broker, "first")
    held = await claim(broker)
    await board(broker, "next", deadline_at=build_job("x", deadline_seconds=1.0).deadline_at)
    await broker.cancel("first")

    async def is_late() -> bool:
        assert await broker.reap() == ReapReport()
        return await broker.heartbeat(held, 1) == Verdict.DEADLINE_PASSED

    await eventually(is_late)
    assert await broker.finish(held, Failed(messages.DEADLINE_PASSED))
    assert (await job_of(broker, "next")).state == JobState.FAILED


async def test_a_lost_worker_s_flight_is_drawn_again_by_another(broker: Broker) -> None:
    await board(broker, "first")
    await board(broker, "second")
    lost = await claim(broker, lease_seconds=SHORT_SECONDS)
    await broker.cancel("first")
    assert await reap_something(broker) == ReapReport(requeued=1)
    second = await job_of(broker, "second")
    assert (second.state, second.attempts, second.worker) == (JobState.WAITING, 1, None)
    assert (await board(broker, "third")).shared
    current = await claim(broker)
    assert (current.job.id, current.job.attempts) == ("second", 2)
    assert await broker.heartbeat(lost, 2) == Verdict.LOST
    assert not await broker.finish(lost, Succeeded((b"stale",)))
    assert await broker.finish(current, Succeeded(IMAGES))
    assert await broker.images("third") == IMAGES


async def test_a_flight_that_loses_its_workers_too_often_fails_for_all(build_broker: BuildBroker) -> None:
    broker = build_broker(BrokerSettings(max_attempts=1))
    await board(broker, "first")
    await board(broker, "second")
    await claim(broker, lease_seconds=SHORT_SECONDS)
    await reap_something(broker)
    assert await states(broker, "first", "second") == [JobState.FAILED] * 2


async def test_a_released_flight_stays_together(broker: Broker) -> None:
    await board(broker, "first")
    held = await claim(broker)
    await board(broker, "second")
    assert await broker.release(held)
    assert await states(broker, "first", "second") == [JobState.WAITING] * 2
    await run_next(broker)
    assert await states(broker, "first", "second") == [JobState.SUCCEEDED] * 2


async def test_each_job_of_a_flight_tells_its_own_client(broker: Broker) -> None:
    await board(broker, "first", webhook=HOOK)
    await board(broker, "second", webhook=HOOK)
    await board(broker, "canceled", webhook=HOOK)
    await broker.cancel("canceled")
    await run_next(broker)
    told: dict[str, Job] = {}
    while delivery := await broker.claim_delivery(lease_seconds=LONG_SECONDS, wait_seconds=0):
        told[delivery.id] = delivery.job
        await broker.settle_delivery(delivery)
    assert set(told) == {f"{name}.{event}" for name in ("first", "second", "canceled") for event in HOOK.events}
    assert told["second.start"].state == JobState.WAITING
    assert told["canceled.completed"].cancel_requested
    assert Counter(job.state for name, job in told.items() if name.endswith("completed")) == Counter(
        {JobState.SUCCEEDED: 2, JobState.CANCELED: 1}
    )
    for name in ("first", "second", "canceled"):
        assert told[f"{name}.completed"] == await broker.get(name)


async def test_clients_of_a_flight_hear_of_its_end(broker: Broker) -> None:
    await board(broker, "first")
    await board(broker, "second")
    waits = [asyncio.create_task(broker.wait(name, 30)) for name in ("first", "second")]
    await asyncio.sleep(0)
    await run_next(broker)
    done = await asyncio.wait_for(asyncio.gather(*waits), 10)
    assert [job.state for job in done if job] == [JobState.SUCCEEDED] * 2


@pytest.mark.redis
@pytest.mark.parametrize("build_broker", ["redis", "redis-cluster"], indirect=True)  # in memory there is one broker
async def test_pictures_of_a_flight_are_kept_as_long_as_its_most_patient_job(build_broker: BuildBroker) -> None:
    hasty = build_broker(BrokerSettings(result_ttl_seconds=0.05))
    patient = build_broker(BrokerSettings(result_ttl_seconds=LONG_SECONDS))
    await board(hasty, "first")
    await board(patient, "second")
    await run_next(hasty)

    async def is_forgotten() -> bool:
        return await hasty.get("first") is None

    await eventually(is_forgotten)
    assert await patient.images("second") == IMAGES


async def test_a_flight_is_bounded(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("jobs.memory", "jobs.redis_fields"):
        monkeypatch.setattr(f"easel_server.stores.{module}.MAX_FOLLOWERS", 2)
    shared = [(await board(broker, f"job-{number}")).shared for number in range(5)]
    assert shared == [False, True, True, False, False]
    assert (await broker.depth()).waiting == 3
