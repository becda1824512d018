"""A live gateway without keys whose resource asks for them by now: it lets nobody in. A real process."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from easel_contract.gateway_config import GatewayConfig
from easel_contract.server_config import ModelConfig, ServerConfig

from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

OPEN = ServerConfig(model=ModelConfig(name="any", source="any"))
GUARDED = OPEN.model_copy(update={"gateway": GatewayConfig(api_keys_directory="/etc/easel-api-keys")})


def write(file: Path, config: ServerConfig) -> None:
    """At once, as the kubelet renews what is mounted."""
    new = file.with_suffix(".new")
    new.write_text(json.dumps(config.to_wire()))
    new.replace(file)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write(tmp_path / "gateway.json", OPEN)
    return tmp_path / "gateway.json"


@pytest.fixture
def gateway(file: Path) -> Iterator[ServerProcess]:
    with RedisServer() as redis:
        arguments = ("--role", "gateway", "--config", str(file))
        with ServerProcess(*arguments, EASEL_REDIS_URL=redis.url) as process:
            yield process.wait_until_ready()


def test_a_gateway_that_cannot_check_keys_refuses_everybody_until_none_are_asked_for(
    gateway: ServerProcess, file: Path
) -> None:
    def status(path: str = "/v1/models", **headers: str) -> int:
        return httpx2.get(gateway.url + path, headers=headers).status_code

    assert status() == 200
    write(file, GUARDED)
    gateway.wait_for(lambda: status() == 503, "refusal")
    assert [status(path) for path in ("/docs", "/openapi.json", "/sdapi/v1/options")] == [503, 503, 503]
    assert status(Authorization="Bearer any") == 503
    body = {"prompt": "a cat"}
    answer = httpx2.post(f"{gateway.url}/v1/images/generations", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "api_keys_unavailable")
    write(file, OPEN)
    gateway.wait_for(lambda: status() == 200, "service")
