"""What becomes of jobs whose worker gives up, is lost or is told to stop, on all brokers."""

import asyncio

from easel_server.generation import messages
from easel_server.generation.job import JobState
from easel_server.stores.interface import Broker
from easel_server.stores.jobs.interface import BrokerSettings, Canceled, ReapReport, Succeeded, Verdict

from tests.inference_server.stores.conftest import BuildBroker
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

# Leases


async def test_a_heartbeat_extends_the_lease_and_records_progress(broker: Broker) -> None:
    await broker.submit(build_job("a"))
    claimed = await claim(broker, lease_seconds=2.0)
    extended_until = asyncio.get_running_loop().time() + 2.5

    async def beat() -> bool:
        assert await broker.heartbeat(claimed, 3) == Verdict.CONTINUE
        assert await broker.reap() == ReapReport()
        return asyncio.get_running_loop().time() > extended_until

    await eventually(beat)
    assert (await job_of(broker, "a")).steps_done == 3
    assert (await reap_something(broker)).requeued == 1  # and without heartbeats it ends


async def test_a_job_of_a_lost_worker_returns_ahead_of_later_ones(broker: Broker) -> None:
    await broker.submit(build_job("first"))
    await broker.submit(build_job("second"))
    await claim(broker, lease_seconds=SHORT_SECONDS)
    await reap_something(broker)
    job = await job_of(broker, "first")
    assert (job.state, job.worker, job.attempts, job.steps_done) == (JobState.WAITING, None, 1, 0)
    again = await claim(broker)
    assert (again.job.id, again.job.attempts) == ("first", 2)


async def test_a_job_that_loses_its_worker_too_often_fails_and_says_so(build_broker: BuildBroker) -> None:
    broker = build_broker(BrokerSettings(max_attempts=2))
    await broker.submit(build_job("a"))
    await claim(broker, "worker-a", lease_seconds=SHORT_SECONDS)
    assert (await reap_something(broker)) == ReapReport(requeued=1)
    await claim(broker, "worker-b", lease_seconds=SHORT_SECONDS)
    assert (await reap_something(broker)) == ReapReport(failed=1)
    job = await job_of(broker, "a")
    assert job.state == JobState.FAILED
    assert job.error == messages.LOST % (2, "worker-b")
    assert await is_empty(broker)


async def test_concurrent_reaps_move_each_job_once(build_broker: BuildBroker) -> None:
    broker = build_broker(BrokerSettings())
    for number in range(20):
        await broker.submit(build_job(f"job-{number}"))
        await claim(broker, lease_seconds=0.001)
    requeued = 0

    async def all_are_back() -> bool:
        nonlocal requeued
        requeued += sum(report.requeued for report in await asyncio.gather(*(broker.reap() for _ in range(5))))
        return (await broker.depth()).running == 0

    await eventually(all_are_back)
    assert requeued == 20
    assert [(await claim(broker)).job.id for _ in range(20)] == [f"job-{number}" for number in range(20)]


# Release


async def test_a_released_job_is_the_next_one_and_its_attempt_is_not_counted(broker: Broker) -> None:
    for name in ("first", "second", "third"):
        await broker.submit(build_job(name))
    first, second = await claim(broker), await claim(broker)
    assert await broker.release(first)
    assert await broker.release(second)
    assert (await job_of(broker, "first")).state == JobState.WAITING
    claimed = [await claim(broker) for _ in range(3)]
    assert [entry.job.id for entry in claimed] == ["first", "second", "third"]
    assert claimed[0].job.attempts == 1


async def test_a_release_wakes_a_waiting_claim(broker: Broker) -> None:
    await broker.submit(build_job("a"))
    held = await claim(broker)
    claiming = asyncio.create_task(broker.claim("w", lease_seconds=LONG_SECONDS, wait_seconds=20))
    await asyncio.sleep(0)
    await broker.release(held)
    assert len(await asyncio.wait_for(claiming, 5)) == 1


async def test_a_released_job_that_was_to_be_canceled_is_canceled(broker: Broker) -> None:
    await broker.submit(build_job("a"))
    held = await claim(broker)
    await broker.cancel("a")
    assert await broker.release(held)
    assert (await job_of(broker, "a")).state == JobState.CANCELED


# Cancel


async def test_canceling_a_waiting_job_ends_it_at_once(broker: Broker) -> None:
    await broker.submit(build_job("a"))
    job = await broker.cancel("a")
    assert job is not None
    assert job.state == JobState.CANCELED
    assert job.finished_at is not None
    assert await broker.claim("w", lease_seconds=1, wait_seconds=0) == ()
    assert await is_empty(broker)


async def test_canceling_a_running_job_asks_its_worker_to_stop(broker: Broker) -> None:
    await broker.submit(build_job("a"))
    claimed = await claim(broker)
    job = await broker.cancel("a")
    assert job is not None
    assert (job.state, job.cancel_requested) == (JobState.RUNNING, True)
    assert await broker.heartbeat(claimed, 2) == Verdict.CANCEL
    assert await broker.finish(claimed, Canceled())
    assert (await job_of(broker, "a")).state == JobState.CANCELED


async def test_canceling_a_finished_job_changes_nothing(broker: Broker) -> None:
    await broker.submit(build_job("a"))
    await broker.finish(await claim(broker), Succeeded(IMAGES))
    before = await broker.get("a")
    assert await broker.cancel("a") == before
    assert before is not None
    assert not before.cancel_requested


async def test_a_canceled_job_whose_worker_is_lost_is_canceled_not_repeated(broker: Broker) -> None:
    await broker.submit(build_job("a"))
    await claim(broker, lease_seconds=SHORT_SECONDS)
    await broker.cancel("a")
    assert await reap_something(broker) == ReapReport(canceled=1)
    assert (await job_of(broker, "a")).state == JobState.CANCELED


# Deadlines


async def test_a_waiting_job_past_its_deadline_fails(broker: Broker) -> None:
    await broker.submit(build_job("a", deadline_seconds=SHORT_SECONDS))
    assert await reap_something(broker) == ReapReport(failed=1)
    job = await job_of(broker, "a")
    assert (job.state, job.error) == (JobState.FAILED, messages.DEADLINE_PASSED)


async def test_a_job_past_its_deadline_is_not_handed_out(broker: Broker) -> None:
    late = build_job("late", deadline_seconds=-1)
    await broker.submit(late)
    await broker.submit(build_job("in-time", deadline_seconds=LONG_SECONDS))
    assert (await claim(broker)).job.id == "in-time"
    assert (await job_of(broker, "late")).state == JobState.FAILED


async def test_a_running_job_past_its_deadline_is_told_so_by_the_heartbeat(broker: Broker) -> None:
    await broker.submit(build_job("a", deadline_seconds=0.2))
    claimed = await claim(broker)

    async def passed() -> bool:
        return await broker.heartbeat(claimed, 1) == Verdict.DEADLINE_PASSED

    assert await eventually(passed)
    assert await broker.reap() == ReapReport()  # it is the worker's to finish
