"""Jobs that a worker can generate together are claimed together, or as room comes, in all stores."""

import asyncio
from typing import Any

from easel_contract.server_config import Priority
from easel_server.generation.job import JobState
from easel_server.stores.jobs.interface import Claim, HeartbeatReply, JobBounds, Jobs, Joining

from tests.inference_server.stores.conftest import BuildStores
from tests.inference_server.stores.steps import LONG_SECONDS, SHORT_SECONDS, claim_ids, job_of, reap_something
from tests.support.jobs import build_job
from tests.support.stored_images import succeed

SMALL = Joining("64x64", Priority.NORMAL)


async def claim_batch(
    jobs: Jobs, *, max_jobs: int = 4, max_images: int = 8, lease_seconds: float = LONG_SECONDS, **options: Any
) -> tuple[Claim, ...]:
    return await jobs.claim(
        "worker-a", lease_seconds=lease_seconds, wait_seconds=0, max_jobs=max_jobs, max_images=max_images, **options
    )


def ids(claims: tuple[Claim, ...]) -> list[str]:
    return [entry.job.id for entry in claims]


async def test_compatible_jobs_come_together_in_schedule_order(jobs: Jobs) -> None:
    for number in range(3):
        await jobs.submit(build_job(f"one-{number}", owner="one", seed=number))
    await jobs.submit(build_job("larger", owner="one", width_pixels=128))
    await jobs.submit(build_job("wider", owner="two", height_pixels=128))
    for number in range(2):
        await jobs.submit(build_job(f"two-{number}", owner="two", steps=9, sampler="Euler a", negative_prompt="fur"))
    claims = await claim_batch(jobs)
    assert ids(claims) == ["one-0", "one-1", "two-0", "one-2"]
    assert len({entry.token for entry in claims}) == 4
    assert ids(await claim_batch(jobs)) == ["wider"]  # its turn, had two-0 not come along
    assert ids(await claim_batch(jobs)) == ["two-1"]
    assert ids(await claim_batch(jobs)) == ["larger"]


async def test_each_job_of_a_batch_is_held_and_ended_by_itself(jobs: Jobs) -> None:
    for name in ("a", "b", "c"):
        await jobs.submit(build_job(name))
    first, second, third = await claim_batch(jobs)
    depth = await jobs.depth()
    assert (depth.waiting, depth.running) == (0, 3)
    await jobs.cancel("b")
    assert await jobs.heartbeat(first, 1) == HeartbeatReply.CONTINUE
    assert await jobs.heartbeat(second, 1) == HeartbeatReply.CANCEL
    assert await succeed(jobs, first, (b"of a",))
    assert await jobs.release(third)
    assert (await job_of(jobs, "a")).state == JobState.SUCCEEDED
    assert (await job_of(jobs, "b")).state == JobState.RUNNING
    assert (await job_of(jobs, "c")).state == JobState.WAITING


async def test_a_batch_keeps_to_its_bounds(jobs: Jobs) -> None:
    for name, images in (("a", 3), ("b", 4), ("c", 2), ("d", 3), ("e", 1)):
        await jobs.submit(build_job(name, images=images))
    assert ids(await claim_batch(jobs, max_images=6)) == ["a", "c", "e"]
    assert ids(await claim_batch(jobs, max_jobs=1)) == ["b"]
    await jobs.submit(build_job("f", images=3))
    assert ids(await claim_batch(jobs, max_images=2)) == ["d"]  # the first may have more


async def test_work_of_lower_priority_does_not_slow_down_a_batch(jobs: Jobs) -> None:
    await jobs.submit(build_job("low", priority=Priority.LOW))
    await jobs.submit(build_job("high", priority=Priority.HIGH))
    assert ids(await claim_batch(jobs)) == ["high"]
    assert ids(await claim_batch(jobs)) == ["low"]


async def test_who_comes_along_in_a_batch_pays_for_it(jobs: Jobs) -> None:
    for number in range(4):
        await jobs.submit(build_job(f"one-{number}", owner="one"))
    for number in range(6):
        await jobs.submit(build_job(f"two-{number}", owner="two", steps=9 if number else 4))
    await jobs.submit(build_job("three-0", owner="three", steps=9))
    assert ids(await claim_batch(jobs, max_jobs=2)) == ["one-0", "two-0"]
    # Two has had as much as one; three has had nothing.
    assert await claim_ids(jobs, 3) == ["three-0", "one-1", "two-1"]


async def test_what_a_lost_worker_was_generating_can_come_together_again(jobs: Jobs) -> None:
    for name in ("a", "b"):
        await jobs.submit(build_job(name))
    assert len(await claim_batch(jobs, lease_seconds=SHORT_SECONDS)) == 2
    moved = 0
    while moved < 2:
        moved += (await reap_something(jobs)).requeued
    await jobs.submit(build_job("c"))
    assert ids(await claim_batch(jobs)) == ["a", "b", "c"]


async def test_a_job_past_its_deadline_does_not_come_along(jobs: Jobs) -> None:
    await jobs.submit(build_job("a"))
    await jobs.submit(build_job("late", deadline_seconds=-1))
    await jobs.submit(build_job("b"))
    assert ids(await claim_batch(jobs)) == ["a", "b"]
    assert (await job_of(jobs, "late")).state == JobState.FAILED


# Joining those that are being generated


async def test_the_next_in_turn_joins_if_it_is_of_the_size_and_fits(jobs: Jobs) -> None:
    for name, images in (("a", 1), ("b", 2), ("c", 2), ("d", 1)):
        await jobs.submit(build_job(name, images=images, steps=4 + images))
    assert ids(await claim_batch(jobs, max_jobs=1)) == ["a"]
    assert ids(await claim_batch(jobs, max_images=3, joining=SMALL)) == ["b"], "c doesn't fit, and d doesn't pass it"
    assert ids(await claim_batch(jobs, max_images=1, joining=SMALL)) == []
    assert ids(await claim_batch(jobs, max_images=3, joining=SMALL)) == ["c", "d"]


async def test_behind_one_of_another_size_nobody_joins_and_it_is_the_next(jobs: Jobs) -> None:
    await jobs.submit(build_job("small"))
    await jobs.submit(build_job("large", width_pixels=128))
    for number in range(3):
        await jobs.submit(build_job(f"later-{number}"))
    assert ids(await claim_batch(jobs, max_jobs=1)) == ["small"]
    assert ids(await claim_batch(jobs, joining=SMALL)) == []
    assert ids(await claim_batch(jobs, joining=Joining("128x64", Priority.NORMAL))) == ["large"]
    assert ids(await claim_batch(jobs, joining=SMALL)) == ["later-0", "later-1", "later-2"]


async def test_who_joins_pays_for_it_in_turn(jobs: Jobs) -> None:
    for number in range(3):
        await jobs.submit(build_job(f"one-{number}", owner="one"))
    await jobs.submit(build_job("two", owner="two"))
    assert ids(await claim_batch(jobs, max_jobs=3, joining=SMALL)) == ["one-0", "two", "one-1"]


async def test_work_of_lower_priority_does_not_join_and_work_of_a_higher_one_does(jobs: Jobs) -> None:
    await jobs.submit(build_job("low", priority=Priority.LOW))
    assert ids(await claim_batch(jobs, joining=SMALL)) == []
    await jobs.submit(build_job("high", priority=Priority.HIGH))
    assert ids(await claim_batch(jobs, joining=SMALL)) == ["high"]
    assert ids(await claim_batch(jobs, joining=Joining("64x64", Priority.LOW))) == ["low"]


async def test_each_size_has_a_bound_of_its_own(jobs: Jobs) -> None:
    for name, width in (("a", 64), ("b", 64), ("c", 64), ("d", 128), ("e", 128)):
        await jobs.submit(build_job(name, width_pixels=width))
    bounds = {"64x64": 2, "128x64": 1}
    assert [ids(await claim_batch(jobs, max_images_of=bounds)) for _ in range(4)] == [["a", "b"], ["c"], ["d"], ["e"]]


async def test_a_late_job_makes_room_for_the_one_behind_it(jobs: Jobs) -> None:
    await jobs.submit(build_job("late", deadline_seconds=-1, width_pixels=128))
    await jobs.submit(build_job("b"))
    assert ids(await claim_batch(jobs, joining=SMALL)) == ["b"]


async def test_a_jobs_last_attempt_is_alone_and_the_earlier_ones_are_not(build_stores: BuildStores) -> None:
    jobs = build_stores(JobBounds(max_attempts=3)).jobs
    for name in ("bad", "b", "c", "d"):
        await jobs.submit(build_job(name))
    for companion in ("b", "c"):
        bad, other = await claim_batch(jobs, max_jobs=2)
        assert (bad.job.id, bad.is_alone, other.job.id) == ("bad", False, companion)
        await jobs.retry(bad, "the engine failed")
    assert ids(await claim_batch(jobs, joining=SMALL)) == [], "it doesn't join, and nobody passes it"
    [last] = await claim_batch(jobs)
    assert (last.job.id, last.job.attempts, last.is_alone) == ("bad", 3, True)
    assert ids(await claim_batch(jobs)) == ["d"]


async def test_a_job_that_comes_wakes_those_that_have_room_and_those_that_have_nothing_to_do(jobs: Jobs) -> None:
    waiting = asyncio.create_task(jobs.wait_for_work(["m"], 20))
    claiming = asyncio.create_task(jobs.claim("w", ["m"], lease_seconds=LONG_SECONDS, wait_seconds=20))
    await asyncio.sleep(0)
    await jobs.submit(build_job("a", model="m"))
    assert ids(await asyncio.wait_for(claiming, 5)) == ["a"]
    await asyncio.wait_for(waiting, 5)
