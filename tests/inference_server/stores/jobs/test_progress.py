"""What travels beside a job, and how its progress and the work at large are seen; on both brokers."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from easel_server.generation.cost import CostSums, Measurement
from easel_server.generation.job import Job, JobState
from easel_server.generation.tasks import Task
from easel_server.stores.interface import Broker
from easel_server.stores.jobs.interface import BrokerSettings, Failed, QueueDepth, Succeeded

from tests.inference_server.stores.conftest import BuildBroker
from tests.inference_server.stores.steps import IMAGES, LONG_SECONDS, claim, job_of, run_next
from tests.support.eventually import eventually
from tests.support.jobs import build_job

PICTURES = {"digest-1": b"\x89PNG\x00one", "digest-2": b"mask"}


async def next_of(changes: AsyncGenerator[Job]) -> Job:
    return await asyncio.wait_for(anext(changes), 10)


# Input pictures


async def test_input_pictures_come_with_the_claim_and_again_after_a_loss(broker: Broker) -> None:
    await broker.submit(build_job("a"), inputs=PICTURES)
    await broker.submit(build_job("b"))
    first = await claim(broker)
    assert dict(first.inputs) == PICTURES
    await broker.release(first)
    assert dict((await claim(broker)).inputs) == PICTURES
    assert dict((await claim(broker)).inputs) == {}


# Previews


async def test_previews_add_up_and_a_repeated_heartbeat_adds_none(broker: Broker) -> None:
    await broker.submit(build_job("a"))
    held = await claim(broker)
    assert await broker.previews("a") == ()
    await broker.heartbeat(held, 1, previews=[b"one"])
    await broker.heartbeat(held, 2)
    await broker.heartbeat(held, 3, previews=[b"two", b"three"])
    await broker.heartbeat(held, 3, previews=[b"two", b"three"])
    assert await broker.previews("a") == (b"one", b"two", b"three")
    assert (await job_of(broker, "a")).previews == 3
    await broker.finish(held, Succeeded(IMAGES))
    assert await broker.previews("a") == (b"one", b"two", b"three")
    assert (await job_of(broker, "a")).previews == 3


async def test_previews_of_a_lost_attempt_are_forgotten(broker: Broker) -> None:
    await broker.submit(build_job("a"))
    held = await claim(broker)
    await broker.heartbeat(held, 1, previews=[b"one"])
    await broker.release(held)
    assert await broker.previews("a") == ()
    assert (await job_of(broker, "a")).previews == 0


async def test_previews_are_bounded(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("jobs.memory", "redis_broker"):
        monkeypatch.setattr(f"easel_server.stores.{module}.MAX_PREVIEWS", 3)
    await broker.submit(build_job("a"))
    held = await claim(broker)
    for number in range(5):
        await broker.heartbeat(held, number, previews=[b"%d" % number])
    assert await broker.previews("a") == (b"0", b"1", b"2")


# Watch


async def test_a_watcher_sees_each_change_until_the_end(build_broker: BuildBroker) -> None:
    gateway = build_broker(BrokerSettings())
    await gateway.submit(build_job("a"))
    changes = gateway.watch("a")
    assert (await next_of(changes)).state == JobState.WAITING
    held = await claim(gateway)
    assert (await next_of(changes)).state == JobState.RUNNING
    await gateway.heartbeat(held, 2)
    assert (await next_of(changes)).steps_done == 2
    await gateway.heartbeat(held, 3, previews=[b"one"])
    assert (await next_of(changes)).previews == 1
    await gateway.release(held)
    assert (await next_of(changes)).state == JobState.WAITING
    await gateway.cancel("a")
    assert (await next_of(changes)).state == JobState.CANCELED
    with pytest.raises(StopAsyncIteration):
        await next_of(changes)


async def test_watching_a_final_or_unknown_job_ends_at_once(broker: Broker) -> None:
    await broker.submit(build_job("a"))
    await broker.cancel("a")
    assert [job.state async for job in broker.watch("a")] == [JobState.CANCELED]
    assert [job async for job in broker.watch("unknown")] == []


async def test_followers_are_watched_like_any_job(broker: Broker) -> None:
    await broker.submit(build_job("a"), flight_key="f")
    await broker.submit(build_job("b"), flight_key="f")
    changes = broker.watch("b")
    assert (await next_of(changes)).state == JobState.WAITING
    await run_next(broker)
    seen = [job.state async for job in changes]
    assert seen[-1] == JobState.SUCCEEDED
    assert set(seen) <= {JobState.RUNNING, JobState.SUCCEEDED}


async def test_a_watcher_may_leave_early(broker: Broker) -> None:
    await broker.submit(build_job("a"))
    changes = broker.watch("a")
    await next_of(changes)
    await changes.aclose()
    await run_next(broker)
    assert (await job_of(broker, "a")).state == JobState.SUCCEEDED


# The work at large


async def test_depth_counts_what_waits_and_runs_and_the_oldest_age(broker: Broker) -> None:
    for name in ("a", "b", "c"):
        await broker.submit(build_job(name))
    await claim(broker)

    async def aged() -> QueueDepth | None:
        depth = await broker.depth()
        return depth if depth.oldest_waiting_age_seconds > 0.05 else None

    depth = await eventually(aged)
    assert depth is not None
    assert (depth.waiting, depth.running) == (2, 1)
    assert depth.oldest_waiting_age_seconds < 20


async def test_depth_is_in_gpu_seconds_too_and_shrinks_as_steps_are_done(broker: Broker) -> None:
    for name, gpu_seconds in (("a", 8.0), ("b", 3.0), ("c", 0.5)):
        await broker.submit(build_job(name, gpu_seconds=gpu_seconds))  # of 4 steps
    assert (await broker.depth()).waiting_gpu_seconds == 11.5
    held = await claim(broker)
    depth = await broker.depth()
    assert (depth.waiting_gpu_seconds, depth.running_gpu_seconds) == (3.5, 8.0)
    await broker.heartbeat(held, 1)
    assert (await broker.depth()).running_gpu_seconds == 6.0
    await broker.heartbeat(held, 4)
    assert (await broker.depth()).running_gpu_seconds == 0.0
    await broker.release(held)
    depth = await broker.depth()
    assert (depth.waiting_gpu_seconds, depth.running_gpu_seconds) == (11.5, 0.0)
    await broker.cancel("b")
    assert (await broker.depth()).waiting_gpu_seconds == 8.5


async def test_workers_count_while_they_are_heard_of(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await broker.depth()).workers == 0
    await broker.submit(build_job("a"))
    held = await claim(broker, "one")
    await broker.claim("two", lease_seconds=LONG_SECONDS, wait_seconds=0)
    assert (await broker.depth()).workers == 2
    for module in ("jobs.memory", "redis_broker"):
        monkeypatch.setattr(f"easel_server.stores.{module}.WORKER_SEEN_SECONDS", 0.2)

    async def only_the_beating_one_is_left() -> bool:
        await broker.heartbeat(held, 1)
        return (await broker.depth()).workers == 1

    assert await eventually(only_the_beating_one_is_left)


async def test_costs_of_succeeded_jobs_add_up_and_the_old_ones_fade(broker: Broker) -> None:
    assert await broker.cost_sums() == CostSums()
    expected = CostSums()
    for number in range(5):
        await broker.submit(build_job(f"job-{number}"))
        measured = Measurement(work_units=0.1 * number, gpu_seconds=0.3 + number / 7)
        held = await claim(broker)
        assert await broker.finish(held, Succeeded(IMAGES), measured)
        assert await broker.finish(held, Succeeded(IMAGES), measured)  # repeated: counted once
        expected = expected.add(measured)
    await broker.submit(build_job("failed"))
    await broker.finish(await claim(broker), Failed("no"), Measurement(1000.0, 1.0))
    assert await broker.cost_sums() == expected


async def test_half_the_progress_is_half_the_work_although_a_picture_to_begin_with_needs_fewer_steps(
    broker: Broker,
) -> None:
    job = build_job("a", gpu_seconds=8.0)
    begun = {"task": Task.IMAGE_TO_IMAGE, "image_digest": "digest-1", "strength": 0.5}
    job = job.model_copy(update={"parameters": job.parameters.model_copy(update=begun)})
    await broker.submit(job, inputs=PICTURES)
    held = await claim(broker)
    await broker.heartbeat(held, 2)  # of 4: workers tell progress in the steps that were asked for
    assert (await broker.depth()).running_gpu_seconds == 4.0
