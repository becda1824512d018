"""How long a request will wait."""

import asyncio
import math
from typing import Any

import pytest
from easel_contract.gateway_config import GatewayConfig, LimitsConfig
from easel_contract.server_config import ModelConfig, ServerConfig
from easel_server.gateway.queue_estimate import Capacity, QueueEstimates, predict_wait_seconds
from easel_server.generation.models import ModelFacts
from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.jobs.interface import QueueDepth
from hypothesis import given
from hypothesis import strategies as st

from tests.support.jobs import build_job
from tests.support.live_configs import build_live_config

AMOUNTS = st.floats(min_value=0, max_value=1e6)
COUNTS = st.integers(min_value=0, max_value=100)


@pytest.mark.parametrize(
    ("gpu_seconds_ahead", "capacity", "expected"),
    [
        (0.0, Capacity(1, 1, 60.0), 0.0),
        (30.0, Capacity(1, 1, 60.0), 30.0),
        (30.0, Capacity(3, 3, 60.0), 10.0),
        (0.0, Capacity(0, 2, 60.0), 60.0),
        (100.0, Capacity(0, 2, 60.0), 110.0),
        (100.0, Capacity(0, 0, 60.0), math.inf),
        (100.0, Capacity(2, 4, 60.0), 50.0),
        (320.0, Capacity(2, 4, 60.0), 110.0),
        (100.0, Capacity(4, 2, 60.0), 25.0),
    ],
    ids=[
        "nothing is ahead of it",
        "one worker does what is ahead",
        "three share it",
        "from zero it takes as long as a start",
        "and then as long as the work",
        "nobody will ever come",
        "what is ahead is done before others have started",
        "others join in once they have started",
        "more are there than the service may have",
    ],
)
def test_the_wait_is(gpu_seconds_ahead: float, capacity: Capacity, expected: float) -> None:
    assert predict_wait_seconds(gpu_seconds_ahead, capacity) == pytest.approx(expected)


@given(AMOUNTS, AMOUNTS, COUNTS, COUNTS, AMOUNTS)
def test_more_work_never_waits_less(less: float, more: float, workers: int, most: int, start_seconds: float) -> None:
    capacity = Capacity(workers, most, start_seconds)
    waits = [predict_wait_seconds(amount, capacity) for amount in sorted((less, more))]
    assert waits[0] <= waits[1] + 1e-6


@given(AMOUNTS, COUNTS, COUNTS, AMOUNTS)
def test_another_worker_never_makes_it_longer(
    gpu_seconds_ahead: float, workers: int, most: int, start_seconds: float
) -> None:
    now = predict_wait_seconds(gpu_seconds_ahead, Capacity(workers, most, start_seconds))
    with_another = predict_wait_seconds(gpu_seconds_ahead, Capacity(workers + 1, most, start_seconds))
    assert with_another <= now + 1e-6


class Queue:
    """A fake of a job store whose depth takes until it is let go, and fails while it is away."""

    def __init__(self) -> None:
        self.looks = 0
        self.is_away = True
        self.go = asyncio.Event()

    async def depth(self) -> QueueDepth:
        self.looks += 1
        await self.go.wait()
        if self.is_away:
            raise StoreUnavailableError("redis:6379", "jobs/depth", "TimeoutError", "check it")
        return QueueDepth(0, 0, 0.0, workers=1)


def estimate_from(queue: Queue) -> QueueEstimates:
    async def facts() -> ModelFacts:
        return ModelFacts()

    jobs: Any = queue
    config = ServerConfig(
        model=ModelConfig(name="m", source="m"), gateway=GatewayConfig(limits=LimitsConfig(max_wait_seconds=60))
    )
    return QueueEstimates(jobs, config.gateway, build_live_config(config), facts)


async def test_checks_in_an_outage_share_one_look_at_the_queue_and_its_failure() -> None:
    queue = Queue()
    estimates = estimate_from(queue)
    checks = [asyncio.create_task(estimates.check(build_job("a"))) for _ in range(10)]
    await asyncio.sleep(0)
    queue.go.set()
    results = await asyncio.gather(*checks, return_exceptions=True)
    assert [type(result) for result in results] == [StoreUnavailableError] * 10
    assert queue.looks == 1, "the second would have to wait for the failure of the first, and so on"
    queue.is_away = False
    await estimates.check(build_job("b"))
    assert queue.looks == 2


async def test_a_client_that_leaves_takes_nobody_elses_look_with_it() -> None:
    queue = Queue()
    queue.is_away = False
    estimates = estimate_from(queue)
    leaving, staying = (asyncio.create_task(estimates.check(build_job("a"))) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    queue.go.set()
    await staying
    assert queue.looks == 1
