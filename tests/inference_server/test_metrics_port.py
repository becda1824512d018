"""Metrics and readiness on a port of their own: what an Ingress leads to says nothing of them. Real processes."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from easel_contract.gateway_config import GatewayConfig
from easel_contract.server_config import ModelConfig, ServerConfig

from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess


def build_config(keys: Path | None = None) -> ServerConfig:
    gateway = GatewayConfig(api_keys_directory=str(keys) if keys else None)
    return ServerConfig(model=ModelConfig(name="any", source="any"), gateway=gateway)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    (tmp_path / "alice").write_text("alices-key")
    return tmp_path


def inner_url(server: ServerProcess) -> str:
    line = next(line for line in server.log if line["message"] == "listening")
    return f"http://127.0.0.1:{line['metrics_port']}"


@pytest.fixture
def server(keys: Path) -> Iterator[ServerProcess]:
    with ServerProcess("--engine", "synthetic", "--metrics-port", "0", config=build_config(keys)) as server:
        yield server.wait_until_listening()


def test_the_port_of_the_apis_says_where_metrics_are_and_nothing_else(server: ServerProcess) -> None:
    for path in ("/metrics", "/readyz"):
        for method in ("GET", "HEAD"):
            answer = httpx2.request(method, server.url + path, headers={"Authorization": "Bearer alices-key"})
            assert answer.status_code == 404
        assert "--metrics-port" in httpx2.get(server.url + path).json()["error"]["message"]
    assert httpx2.get(f"{server.url}/healthz").text == "ok\n"


def test_the_other_port_has_metrics_and_probes_and_no_api(server: ServerProcess) -> None:
    inner = inner_url(server)
    assert "easel_http_requests_total" in httpx2.get(f"{inner}/metrics").text
    server.wait_for(lambda: httpx2.get(f"{inner}/readyz").json()["reason"] == "Available", "readiness")
    assert httpx2.get(f"{inner}/healthz").status_code == 200
    assert [httpx2.get(inner + path).status_code for path in ("/", "/docs", "/v1/models")] == [404, 404, 404]


def test_with_keys_and_one_port_metrics_are_nowhere(keys: Path) -> None:
    with ServerProcess("--engine", "synthetic", config=build_config(keys)) as server:
        server.wait_until_ready()
        assert httpx2.get(f"{server.url}/metrics").status_code == 404


def test_without_keys_one_port_has_all(tmp_path: Path) -> None:
    with ServerProcess("--engine", "synthetic", config=build_config()) as server:
        server.wait_until_ready()
        assert "easel_queue_depth" in httpx2.get(f"{server.url}/metrics").text


def test_a_worker_listens_on_the_port_of_its_metrics_alone() -> None:
    with (
        RedisServer() as redis,
        ServerProcess(
            *("--role", "worker", "--engine", "synthetic", "--metrics-port", "0"),
            config=build_config(),
            EASEL_REDIS_URL=redis.url,
        ) as worker,
    ):
        worker.wait_until_ready()
        assert worker.url == inner_url(worker)
        assert "easel_queue_depth" in httpx2.get(f"{worker.url}/metrics").text


def test_a_process_that_ends_says_so_to_the_last(keys: Path) -> None:
    with ServerProcess("--engine", "synthetic", "--metrics-port", "0", config=build_config(keys)) as server:
        server.wait_until_listening()
        inner = inner_url(server)
        server.wait_for(lambda: httpx2.get(f"{inner}/readyz").status_code == 200, "readiness")
        body = {"prompt": "a cat", "num_inference_steps": 100}
        headers = {"Authorization": "Bearer alices-key"}
        with httpx2.stream(
            "POST", f"{server.url}/v1/images/generations", json={**body, "stream": True}, headers=headers
        ):
            server.terminate()
            server.wait_for(lambda: httpx2.get(f"{inner}/readyz").json()["reason"] == "Draining", "draining")
        assert server.wait() == 0
