"""What a customer learns before it submits is what its job meets once it has."""

import random

import pytest
from easel_contract.server_config import Priority
from easel_server.stores.jobs.interface import Claim, Jobs, QueuePosition

from tests.support.jobs import build_job

OWNERS = {"alice": (1, 1.0), "bob": (3, 2.5), "carol": (1, 0.25)}  # weight, GPU-seconds of each job
PRIORITIES = tuple(Priority)


async def test_an_empty_queue_has_nothing_ahead(jobs: Jobs) -> None:
    assert await jobs.estimate_position(build_job("next")) == QueuePosition(0, 0.0)


async def test_a_crowds_queue_is_not_ahead_of_others(jobs: Jobs) -> None:
    for number in range(100):
        await jobs.submit(build_job(f"crowd-{number}", owner="crowd", gpu_seconds=2.0))
    for owner, priority, expected in (
        ("crowd", Priority.NORMAL, QueuePosition(100, 200.0)),
        ("other", Priority.NORMAL, QueuePosition(1, 2.0)),
        ("other", Priority.HIGH, QueuePosition(0, 0.0)),
        ("other", Priority.LOW, QueuePosition(100, 200.0)),
    ):
        assert await jobs.estimate_position(build_job("next", owner=owner, priority=priority)) == expected


@pytest.mark.parametrize("seed", range(5))
async def test_the_estimate_is_the_position_of_what_is_then_submitted(jobs: Jobs, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 (a history, not secrets)
    running: list[Claim] = []
    for number in range(80):
        owner = chance.choice(tuple(OWNERS))
        weight, gpu_seconds = OWNERS[owner]
        priority = chance.choice(PRIORITIES)
        job_id = f"job-{number:03}"
        model = chance.choice((None, "a", "b"))
        job = build_job(job_id, owner=owner, weight=weight, gpu_seconds=gpu_seconds, priority=priority, model=model)
        estimate = await jobs.estimate_position(job)
        reply = await jobs.submit(job)
        position = await jobs.position(job_id)
        assert position is not None
        assert reply.position == position
        assert position.jobs_ahead == estimate.jobs_ahead, f"seed {seed}, {job_id}"
        assert position.gpu_seconds_ahead == pytest.approx(estimate.gpu_seconds_ahead, abs=1e-4)
        match chance.randrange(4):
            case 0:
                running += await jobs.claim("worker", ["a", "b"], lease_seconds=3600, wait_seconds=0)
            case 1 if running:
                await jobs.release(running.pop(chance.randrange(len(running))))
            case 2:
                await jobs.cancel(f"job-{chance.randrange(number + 1):03}")
