"""A backup of one redis-server in a new one: by the commands that docs/platform/redis.md and examples/redis have."""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from easel_contract import names
from easel_contract.server_config import EngineConfig, EngineKind, ModelConfig, ServerConfig, SyntheticConfig

from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.redis

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "of-the-installation"
QUEUED = 12
CONFIG = ServerConfig(
    namespace="studio",
    service="painter",
    model=ModelConfig(name="synthetic", source="studio/synthetic"),
    engine=EngineConfig(
        kind=EngineKind.SYNTHETIC, synthetic=SyntheticConfig(milliseconds_per_step=0, milliseconds_per_image=50)
    ),
)


@pytest.fixture
def servers() -> Iterator[tuple[RedisServer, RedisServer]]:
    """The one that is backed up, which runs, and a new one, which doesn't yet."""
    with ExitStack() as stack:
        old, new = (RedisServer("--requirepass", PASSWORD) for _ in range(2))
        for server in (old, new):
            stack.callback(server.close)
        old.start()
        yield old, new


def run_pod(role: str, redis: RedisServer) -> ServerProcess:
    """Whose service has the same uid each time, as one that was never deleted."""
    url = redis.url.replace("redis://", f"redis://:{PASSWORD}@")
    environment: dict[str, Any] = {names.ENV_REDIS_URL: url, names.ENV_POD_NAME: f"painter-{role}-0"}
    return ServerProcess("--role", role, config=CONFIG, **environment)


def back_up(redis: RedisServer) -> bytes:
    """What ``kubectl exec`` carries out in the pod, and sends here."""
    (script,) = re.findall(r"-- env REDISCLI_AUTH=\S+ sh -c '(.*?)'", (ROOT / "docs/platform/redis.md").read_text())
    script = script.replace("redis-cli", f"redis-cli -p {redis.port}").replace("/data", str(redis.directory))
    environment = {**os.environ, "REDISCLI_AUTH": PASSWORD}
    return subprocess.run(["sh", "-c", script], env=environment, capture_output=True, check=True, timeout=60).stdout


def restore(snapshot: bytes, directory: Path) -> subprocess.CompletedProcess[bytes]:
    """The script of the example, on a volume that nobody uses."""
    script = next(
        each["data"]["restore.sh"]
        for each in yaml.safe_load_all((ROOT / "examples/redis/restore.yaml").read_text())
        if each["kind"] == "ConfigMap"
    )
    environment = {**os.environ, "DIRECTORY": str(directory)}
    command = ["sh", "-c", script]
    return subprocess.run(command, env=environment, input=snapshot, capture_output=True, check=False, timeout=60)


async def submit(client: httpx2.AsyncClient, seed: int) -> str:
    body = {"input": {"prompt": "a fox", "num_inference_steps": 1, "seed": seed}}
    answer = await client.post("/v1/predictions", json=body)
    assert answer.status_code in (201, 202)
    return str(answer.json()["id"])


async def await_success(client: httpx2.AsyncClient, *jobs: str) -> None:
    async def are_finished() -> bool:
        answers = [await client.get(f"/v1/predictions/{each}") for each in jobs]
        return all(answer.status_code == 200 and answer.json()["status"] == "succeeded" for answer in answers)

    await eventually(are_finished, timeout_seconds=90)


async def test_what_was_queued_at_a_backup_is_done_after_it_was_restored_and_what_was_done_is_still_there(
    servers: tuple[RedisServer, RedisServer],
) -> None:
    old, new = servers
    with run_pod("gateway", old) as gateway:
        gateway.wait_until_ready()
        async with httpx2.AsyncClient(base_url=gateway.url, timeout=30) as client:
            with run_pod("worker", old) as worker:
                worker.wait_until_ready()
                done = await submit(client, QUEUED)
                await await_success(client, done)
            queued = [await submit(client, number) for number in range(QUEUED)]
            snapshot = back_up(old)
            after = await submit(client, QUEUED + 1)
    old.kill()

    outcome = restore(snapshot, new.directory)
    assert outcome.returncode == 0, outcome.stderr
    new.start()
    with run_pod("gateway", new) as gateway, run_pod("worker", new) as worker:
        gateway.wait_until_ready()
        worker.wait_until_ready()
        async with httpx2.AsyncClient(base_url=gateway.url, timeout=30) as client:
            await await_success(client, *queued, done)
            answer = await client.get(f"/v1/predictions/{done}")
            image = await client.get(answer.json()["output"][0])
            assert image.headers["content-type"] == "image/png"
            assert (await client.get(f"/v1/predictions/{after}")).status_code == 404, "it came after the backup"
            again = await submit(client, QUEUED + 2)
            await await_success(client, again)


def test_a_restored_redis_goes_on_with_an_append_only_file_and_what_it_had_is_kept_beside(
    servers: tuple[RedisServer, RedisServer],
) -> None:
    old, new = servers
    assert cli(old, "SET", "of", "the backup") == "OK"
    new.start()
    assert cli(new, "SET", "of", "the volume") == "OK"
    new.kill()
    assert restore(back_up(old), new.directory).returncode == 0
    new.start()
    assert cli(new, "GET", "of") == "the backup"
    assert cli(new, "SET", "since", "then") == "OK"
    new.kill()
    new.start()
    assert (cli(new, "GET", "of"), cli(new, "GET", "since")) == ("the backup", "then")
    assert len(list(new.directory.glob("appendonlydir.before-*"))) == 1


@pytest.mark.parametrize("length", [0, 60], ids=["nothing", "its first bytes"])
def test_half_a_backup_is_refused_and_changes_nothing(servers: tuple[RedisServer, RedisServer], length: int) -> None:
    old, new = servers
    cli(old, "SET", "key", "x" * 1000)
    new.start()
    assert cli(new, "SET", "of", "the volume") == "OK"
    new.kill()
    outcome = restore(back_up(old)[:length], new.directory)
    assert outcome.returncode == 1
    assert b"not a whole snapshot: nothing is changed" in outcome.stderr
    new.start()
    assert cli(new, "GET", "of") == "the volume"


def cli(redis: RedisServer, *words: str) -> str:
    """Of redis-cli."""
    environment = {**os.environ, "REDISCLI_AUTH": PASSWORD}
    command = ["redis-cli", "-p", str(redis.port), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()
