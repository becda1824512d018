"""What a customer is told before it submits is what its job meets once it has."""

import random

import pytest
from easel_contract.server_config import Priority
from easel_server.stores.interface import Broker
from easel_server.stores.jobs.interface import Claim, QueuePosition

from tests.support.jobs import build_job

OWNERS = {"alice": (1, 1.0), "bob": (3, 2.5), "carol": (1, 0.25)}  # weight, GPU-seconds of each job
PRIORITIES = tuple(Priority)


async def test_an_empty_queue_has_nothing_ahead(broker: Broker) -> None:
    assert await broker.outlook("alice", Priority.NORMAL, 1) == QueuePosition(0, 0.0)


async def test_a_crowds_queue_is_not_ahead_of_others(broker: Broker) -> None:
    for number in range(100):
        await broker.submit(build_job(f"crowd-{number}", owner="crowd", gpu_seconds=2.0))
    assert await broker.outlook("crowd", Priority.NORMAL, 1) == QueuePosition(100, 200.0)
    assert await broker.outlook("other", Priority.NORMAL, 1) == QueuePosition(1, 2.0)
    assert await broker.outlook("other", Priority.HIGH, 1) == QueuePosition(0, 0.0)
    assert await broker.outlook("other", Priority.LOW, 1) == QueuePosition(100, 200.0)


@pytest.mark.parametrize("seed", range(5))
async def test_the_outlook_is_the_position_of_what_is_then_submitted(broker: Broker, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 (a history, not secrets)
    running: list[Claim] = []
    for number in range(80):
        owner = chance.choice(tuple(OWNERS))
        weight, gpu_seconds = OWNERS[owner]
        priority = chance.choice(PRIORITIES)
        outlook = await broker.outlook(owner, priority, weight)
        job_id = f"job-{number:03}"
        job = build_job(job_id, owner=owner, weight=weight, gpu_seconds=gpu_seconds, priority=priority)
        submission = await broker.submit(job)
        position = await broker.position(job_id)
        assert position is not None
        assert submission.position == position
        assert position.jobs_ahead == outlook.jobs_ahead, f"seed {seed}, {job_id}"
        assert position.gpu_seconds_ahead == pytest.approx(outlook.gpu_seconds_ahead, abs=1e-4)
        match chance.randrange(4):
            case 0:
                running += await broker.claim("worker", lease_seconds=3600, wait_seconds=0)
            case 1 if running:
                await broker.release(running.pop(chance.randrange(len(running))))
            case 2:
                await broker.cancel(f"job-{chance.randrange(number + 1):03}")
