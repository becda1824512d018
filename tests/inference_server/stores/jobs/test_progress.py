"""What travels beside a job, and how its progress and the work at large are seen; in all stores."""

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest
from easel_server.generation.cost import AddOnWork, CostSums, Measurement
from easel_server.generation.job import Job, JobState
from easel_server.generation.tasks import Task
from easel_server.stores.jobs.interface import Failed, Jobs, QueueDepth

from tests.inference_server.stores.conftest import BuildStores
from tests.inference_server.stores.steps import IMAGES, LONG_SECONDS, claim, job_of, run_next
from tests.support.eventually import eventually
from tests.support.jobs import build_job
from tests.support.stored_images import succeed

INPUTS = {"digest-1": b"\x89PNG\x00one", "digest-2": b"mask"}


async def next_of(changes: AsyncGenerator[Job]) -> Job:
    return await asyncio.wait_for(anext(changes), 10)


# Input images


async def test_input_images_come_with_the_claim_and_again_after_a_loss(jobs: Jobs) -> None:
    await jobs.submit(build_job("a"), inputs=INPUTS)
    await jobs.submit(build_job("b"))
    first = await claim(jobs)
    assert dict(first.inputs) == INPUTS
    await jobs.release(first)
    assert dict((await claim(jobs)).inputs) == INPUTS
    assert dict((await claim(jobs)).inputs) == {}


# Previews


async def test_previews_add_up_and_a_repeated_heartbeat_adds_none(jobs: Jobs) -> None:
    await jobs.submit(build_job("a"))
    held = await claim(jobs)
    assert await jobs.previews("a") == ()
    await jobs.heartbeat(held, 1, previews=[b"one"])
    await jobs.heartbeat(held, 2)
    await jobs.heartbeat(held, 3, previews=[b"two", b"three"])
    await jobs.heartbeat(held, 3, previews=[b"two", b"three"])
    assert await jobs.previews("a") == (b"one", b"two", b"three")
    assert (await job_of(jobs, "a")).previews == 3
    await succeed(jobs, held, IMAGES)
    assert await jobs.previews("a") == (b"one", b"two", b"three")
    assert (await job_of(jobs, "a")).previews == 3


async def test_previews_of_a_lost_attempt_are_forgotten(jobs: Jobs) -> None:
    await jobs.submit(build_job("a"))
    held = await claim(jobs)
    await jobs.heartbeat(held, 1, previews=[b"one"])
    await jobs.release(held)
    assert await jobs.previews("a") == ()
    assert (await job_of(jobs, "a")).previews == 0


async def test_previews_are_bounded(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("jobs.memory", "jobs.redis"):
        monkeypatch.setattr(f"easel_server.stores.{module}.MAX_PREVIEWS", 3)
    await jobs.submit(build_job("a"))
    held = await claim(jobs)
    for number in range(5):
        await jobs.heartbeat(held, number, previews=[b"%d" % number])
    assert await jobs.previews("a") == (b"0", b"1", b"2")


# Watch


async def test_a_watcher_sees_each_change_until_the_end(build_stores: BuildStores) -> None:
    gateway = build_stores().jobs
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


async def test_watching_a_final_or_unknown_job_ends_at_once(jobs: Jobs) -> None:
    await jobs.submit(build_job("a"))
    await jobs.cancel("a")
    assert [job.state async for job in jobs.watch("a")] == [JobState.CANCELED]
    assert [job async for job in jobs.watch("unknown")] == []


async def test_followers_are_watched_like_any_job(jobs: Jobs) -> None:
    await jobs.submit(build_job("a"), flight_key="f")
    await jobs.submit(build_job("b"), flight_key="f")
    changes = jobs.watch("b")
    assert (await next_of(changes)).state == JobState.WAITING
    await run_next(jobs)
    seen = [job.state async for job in changes]
    assert seen[-1] == JobState.SUCCEEDED
    assert set(seen) <= {JobState.RUNNING, JobState.SUCCEEDED}


async def test_a_watcher_may_leave_early(jobs: Jobs) -> None:
    await jobs.submit(build_job("a"))
    changes = jobs.watch("a")
    await next_of(changes)
    await changes.aclose()
    await run_next(jobs)
    assert (await job_of(jobs, "a")).state == JobState.SUCCEEDED


# The work at large


async def test_depth_counts_what_waits_and_runs_and_the_oldest_age(jobs: Jobs) -> None:
    for name in ("a", "b", "c"):
        await jobs.submit(build_job(name))
    await claim(jobs)

    async def aged() -> QueueDepth | None:
        depth = await jobs.depth()
        return depth if depth.oldest_waiting_age_seconds > 0.05 else None

    depth = await eventually(aged)
    assert depth is not None
    assert (depth.waiting, depth.running) == (2, 1)
    assert depth.oldest_waiting_age_seconds < 20


async def test_depth_is_in_gpu_seconds_too_and_shrinks_as_steps_are_done(jobs: Jobs) -> None:
    for name, gpu_seconds in (("a", 8.0), ("b", 3.0), ("c", 0.5)):
        await jobs.submit(build_job(name, gpu_seconds=gpu_seconds))  # of 4 steps
    assert (await jobs.depth()).waiting_gpu_seconds == 11.5
    held = await claim(jobs)
    depth = await jobs.depth()
    assert (depth.waiting_gpu_seconds, depth.running_gpu_seconds) == (3.5, 8.0)
    await jobs.heartbeat(held, 1)
    assert (await jobs.depth()).running_gpu_seconds == 6.0
    await jobs.heartbeat(held, 4)
    assert (await jobs.depth()).running_gpu_seconds == 0.0
    await jobs.release(held)
    depth = await jobs.depth()
    assert (depth.waiting_gpu_seconds, depth.running_gpu_seconds) == (11.5, 0.0)
    await jobs.cancel("b")
    assert (await jobs.depth()).waiting_gpu_seconds == 8.5


async def test_workers_count_while_they_are_heard_of(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await jobs.depth()).workers == 0
    await jobs.submit(build_job("a"))
    held = await claim(jobs, "one")
    await jobs.claim("two", lease_seconds=LONG_SECONDS, wait_seconds=0)
    assert (await jobs.depth()).workers == 2
    for module in ("jobs.memory", "jobs.redis"):
        monkeypatch.setattr(f"easel_server.stores.{module}.WORKER_SEEN_SECONDS", 0.2)

    async def only_the_beating_one_is_left() -> bool:
        await jobs.heartbeat(held, 1)
        return (await jobs.depth()).workers == 1

    assert await eventually(only_the_beating_one_is_left)


async def test_costs_of_succeeded_jobs_add_up_and_the_old_ones_fade(jobs: Jobs) -> None:
    assert await jobs.cost_sums() == CostSums()
    expected = CostSums()
    for number in range(5):
        await jobs.submit(build_job(f"job-{number}"))
        measured = Measurement(work_units=0.1 * number, gpu_seconds=0.3 + number / 7)
        held = await claim(jobs)
        assert await succeed(jobs, held, IMAGES, measured)
        assert await succeed(jobs, held, IMAGES, measured)  # repeated: counted once
        expected = expected.add(measured)
    await jobs.submit(build_job("failed"))
    await jobs.finish(await claim(jobs), Failed("no"), Measurement(1000.0, 1.0))
    assert await jobs.cost_sums() == expected


async def test_costs_of_jobs_with_add_ons_are_summed_beside_those_of_plain_ones(jobs: Jobs) -> None:
    """Which a version before reads, and adds to: they must go on to mean the same."""
    expected = CostSums()
    for number in range(6):
        await jobs.submit(build_job(f"job-{number}"))
        add_ons = AddOnWork(control_units=0.1 * number, adapters=2.0) if number % 2 else AddOnWork()
        measured = Measurement(0.3 * number, 0.7 + number / 7, add_ons)
        assert await succeed(jobs, await claim(jobs), IMAGES, measured)
        expected = expected.add(measured)
    assert await jobs.cost_sums() == expected
    plain = CostSums()
    for number in (0, 2, 4):
        plain = plain.add(Measurement(0.3 * number, 0.7 + number / 7))
    assert replace(expected, add_ons=plain.add_ons) == plain


async def test_half_the_progress_is_half_the_work_although_an_image_to_begin_with_needs_fewer_steps(
    jobs: Jobs,
) -> None:
    job = build_job("a", gpu_seconds=8.0)
    begun = {"task": Task.IMAGE_TO_IMAGE, "image_digest": "digest-1", "strength": 0.5}
    job = job.model_copy(update={"parameters": job.parameters.model_copy(update=begun)})
    await jobs.submit(job, inputs=INPUTS)
    held = await claim(jobs)
    await jobs.heartbeat(held, 2)  # of 4: workers report progress in the steps that were asked for
    assert (await jobs.depth()).running_gpu_seconds == 4.0


# Bounded work


async def test_a_job_counts_as_no_more_work_than_one_pod_can_do_of_it_in_time(jobs: Jobs) -> None:
    await jobs.submit(build_job("long", gpu_seconds=600), target_seconds=30)
    await jobs.submit(build_job("short", gpu_seconds=4), target_seconds=30)
    await jobs.submit(build_job("of a gateway that bounds nothing", gpu_seconds=100))
    depth = await jobs.depth()
    assert (depth.waiting_gpu_seconds, depth.bounded_waiting_gpu_seconds) == (704, 30 + 4 + 100)
    await jobs.cancel("long")
    assert (await jobs.depth()).bounded_waiting_gpu_seconds == 104


async def test_a_job_that_runs_counts_with_what_can_be_done_of_it_until_its_target_is_over(jobs: Jobs) -> None:
    await jobs.submit(build_job("long", gpu_seconds=600, steps=4), target_seconds=30)
    began = time.monotonic()
    held = await claim(jobs)
    depth = await jobs.depth()
    assert (depth.waiting, depth.bounded_waiting_gpu_seconds) == (0, 0)
    assert (depth.running_gpu_seconds, depth.bounded_running_gpu_seconds) == (600, 30)
    await jobs.heartbeat(held, 2)
    depth = await jobs.depth()
    assert depth.running_gpu_seconds == 300
    assert 30 - (time.monotonic() - began) - 0.001 <= depth.bounded_running_gpu_seconds < 30
    await jobs.release(held, checkpoint=b"half done", steps_done=2)
    depth = await jobs.depth()
    assert (depth.bounded_waiting_gpu_seconds, depth.bounded_running_gpu_seconds) == (30, 0)
    held = await claim(jobs)
    assert (await jobs.depth()).bounded_running_gpu_seconds == 30, "it has 300 s to go, and 30 of them in time"
    assert await succeed(jobs, held, IMAGES)
    depth = await jobs.depth()
    assert (depth.bounded_waiting_gpu_seconds, depth.bounded_running_gpu_seconds, depth.overrunning) == (0, 0, 0)


async def test_a_job_that_runs_for_longer_than_its_target_is_overrunning_and_no_work_that_others_could_do(
    jobs: Jobs,
) -> None:
    await jobs.submit(build_job("slow", gpu_seconds=0.0005, steps=4), target_seconds=0.001)
    held = await claim(jobs)
    assert (await jobs.depth()).overrunning == 0

    async def is_overrunning() -> bool:
        await jobs.heartbeat(held, 1)
        return (await jobs.depth()).overrunning == 1

    await eventually(is_overrunning)
    depth = await jobs.depth()
    assert depth.running == 1
    assert depth.bounded_running_gpu_seconds == pytest.approx(0, abs=1e-6)
    await jobs.retry(held, "the engine failed")
    assert (await jobs.depth()).overrunning == 0
