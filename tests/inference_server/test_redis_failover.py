"""A gateway and two workers through the death of the master, asked by HTTP from outside."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx2
import pytest
from easel_contract import names
from easel_contract.server_config import EngineConfig, EngineKind, ModelConfig, ServerConfig, SyntheticConfig

from tests.support.eventually import eventually
from tests.support.redis_sentinels import ReplicatedRedis
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.redis

JOBS = 30
CONFIG = ServerConfig(
    namespace="studio",
    service="painter",
    model=ModelConfig(name="synthetic", source="studio/synthetic"),
    engine=EngineConfig(
        kind=EngineKind.SYNTHETIC, synthetic=SyntheticConfig(milliseconds_per_step=0, milliseconds_per_image=200)
    ),
)


@pytest.fixture
def redis() -> Iterator[ReplicatedRedis]:
    with ReplicatedRedis() as replicated:
        yield replicated


@pytest.fixture
def gateway(redis: ReplicatedRedis) -> Iterator[ServerProcess]:
    with ExitStack() as stack:
        processes: list[ServerProcess] = []
        for role in ("gateway", "worker", "worker"):
            name = f"painter-{role}-{len(processes)}"
            environment: dict[str, Any] = {names.ENV_REDIS_URL: redis.url, names.ENV_POD_NAME: name}
            processes.append(stack.enter_context(ServerProcess("--role", role, config=CONFIG, **environment)))
        for process in processes:
            process.wait_until_ready()
        yield processes[0]


async def test_every_job_that_was_accepted_before_the_master_died_has_one_end_after_it(
    redis: ReplicatedRedis, gateway: ServerProcess
) -> None:
    inputs = [{"prompt": "a fox", "num_inference_steps": 1, "seed": number} for number in range(JOBS)]
    async with httpx2.AsyncClient(base_url=gateway.url, timeout=30) as client:
        made = [await client.post("/v1/predictions", json={"input": each}) for each in inputs]
        ids = [answer.json()["id"] for answer in made]
        assert {answer.status_code for answer in made} <= {201, 202}
        with redis.client(redis.find_master()) as master:
            assert master.wait(1, 5000) == 1  # replication doesn't wait by itself
        redis.find_master().kill()

        async def are_finished() -> bool:
            answers = [await client.get(f"/v1/predictions/{each}") for each in ids]
            return all(answer.status_code == 200 and answer.json()["status"] == "succeeded" for answer in answers)

        await eventually(are_finished, timeout_seconds=90)
