"""One customer's long queue doesn't hold up another's single request: a real gateway, worker and Redis, over HTTP."""

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest
from easel_contract.gateway_config import GatewayConfig
from easel_contract.server_config import EngineConfig, EngineKind, ModelConfig, ServerConfig, SyntheticConfig

from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

QUEUED: Final = 500
JOB_MILLISECONDS: Final = 200  # long enough that the queue is still there when the single request comes
SERVICE_TIMES: Final = 2
AT_A_TIME: Final = 16
KEYS: Final = {"greedy": "key-of-greedy", "modest": "key-of-modest"}


def build_config(keys: Path) -> ServerConfig:
    for customer, key in KEYS.items():
        (keys / customer).write_text(key)
    synthetic = SyntheticConfig(milliseconds_per_step=0, milliseconds_per_image=JOB_MILLISECONDS)
    return ServerConfig(
        namespace="fairness",
        model=ModelConfig(name="synthetic", source="fairness/synthetic"),
        engine=EngineConfig(kind=EngineKind.SYNTHETIC, synthetic=synthetic),
        gateway=GatewayConfig(api_keys_directory=str(keys)),
    )


def client_of(customer: str, url: str) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {KEYS[customer]}"}, timeout=60)


async def submit(client: httpx2.AsyncClient, count: int) -> list[str]:
    """Ids, in no particular order."""
    free = asyncio.Semaphore(AT_A_TIME)

    async def submit_one(number: int) -> str:
        async with free:
            body = {"input": {"prompt": f"picture {number}", "width": 64, "height": 64}}
            answer = await client.post("/v1/predictions", json=body)
        assert answer.status_code == 201, answer.text
        job_id: str = answer.json()["id"]
        return job_id

    return await asyncio.gather(*map(submit_one, range(count)))


async def look(client: httpx2.AsyncClient, job_id: str) -> dict[str, Any]:
    answer = await client.get(f"/v1/predictions/{job_id}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def time_of(moment: str) -> datetime:
    return datetime.fromisoformat(moment)


@pytest.mark.redis
async def test_a_single_request_starts_within_two_service_times_beside_500_queued_ones(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    config = build_config(tmp_path)
    with (
        ServerProcess("--role", "gateway", config=config, EASEL_REDIS_URL=redis_server.url) as gateway,
        ServerProcess("--role", "worker", config=config, EASEL_REDIS_URL=redis_server.url) as worker,
    ):
        gateway.wait_until_ready()
        worker.wait_until_ready()
        async with client_of("greedy", gateway.url) as greedy, client_of("modest", gateway.url) as modest:
            queued = await submit(greedy, QUEUED)
            (single_id,) = await submit(modest, 1)

            async def started() -> dict[str, Any] | None:
                found = await look(modest, single_id)
                return found if found["started_at"] else None

            single = await eventually(started, timeout_seconds=60)
            others = [await look(greedy, job_id) for job_id in queued]
    assert single is not None
    waiting = [one for one in others if not one["started_at"]]
    # Times are Redis', so their order is that of the events, however slow this machine is.
    passed = [
        one["id"]
        for one in others
        if one["started_at"]
        and time_of(single["created_at"]) < time_of(one["started_at"]) < time_of(single["started_at"])
    ]
    assert len(waiting) > QUEUED // 2, "the queue was gone before the single request came: nothing was tested"
    assert len(passed) <= SERVICE_TIMES
