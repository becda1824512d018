"""What clients get whose gateway stops while they wait: real processes over one Redis, and SIGTERM."""

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

import httpx2
import pytest
from easel_contract.gateway_config import GatewayConfig
from easel_contract.server_config import EngineConfig, EngineKind, ModelConfig, ServerConfig
from easel_server.transport import server as server_module

from tests.inference_server.api.serving import wait_for
from tests.support.raw_http import build_head, open_socket, read_all, status_of
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.redis

TEXT = {"prompt": "a cat", "size": "64x64", "num_inference_steps": 2}
AUTOMATIC1111 = {"prompt": "a cat", "width": 64, "height": 64, "steps": 2}
PREDICTION = {"input": {"prompt": "a cat", "width": 64, "height": 64, "num_inference_steps": 2}}


def build_config(model: str = "m", *, drain_seconds: int = 1) -> ServerConfig:
    return ServerConfig(
        model=ModelConfig(name=model, source=model),
        engine=EngineConfig(kind=EngineKind.SYNTHETIC),
        gateway=GatewayConfig(drain_seconds=drain_seconds),
    )


class Service:
    """Processes over one Redis."""

    def __init__(self, redis: RedisServer, stack: ExitStack) -> None:
        self._redis, self._stack = redis, stack

    def start(self, role: str, config: ServerConfig) -> ServerProcess:
        process = ServerProcess("--role", role, config=config, EASEL_REDIS_URL=self._redis.url)
        return self._stack.enter_context(process).wait_until_ready()


@pytest.fixture
def service() -> Iterator[Service]:
    with RedisServer() as redis, ExitStack() as stack:
        yield Service(redis, stack)


def waiting_jobs(gateway: ServerProcess) -> int:
    text = httpx2.get(f"{gateway.url}/metrics?labels=none", timeout=10).text
    line = next(line for line in text.splitlines() if line.startswith('easel_queue_depth{state="Waiting"}'))
    return int(float(line.split()[-1]))


def post(gateway: ServerProcess, path: str, body: dict[str, Any], **headers: str) -> httpx2.Response:
    return httpx2.post(f"{gateway.url}{path}", json=body, headers=headers, timeout=60)


def has_succeeded(url: str) -> bool:
    return bool(httpx2.get(url, timeout=10).json()["status"] == "succeeded")


def test_requests_that_wait_when_their_gateway_ends_are_answered_and_found_again(service: Service) -> None:
    gateway = service.start("gateway", build_config())
    asked: dict[str, tuple[str, dict[str, Any]]] = {
        "openai": ("/v1/images/generations", TEXT),
        "automatic1111": ("/sdapi/v1/txt2img", AUTOMATIC1111),
        "prediction": ("/v1/predictions", PREDICTION),
        "stream": ("/v1/images/generations", {**TEXT, "stream": True}),
        "openai without a key": ("/v1/images/generations", TEXT),
        "automatic1111 without a key": ("/sdapi/v1/txt2img", AUTOMATIC1111),
    }
    with ThreadPoolExecutor(max_workers=10) as pool:

        def ask(name: str) -> httpx2.Response:
            key = {} if "without" in name else {"Idempotency-Key": name}
            return post(gateway, asked[name][0], asked[name][1], Prefer="wait=60", **key)

        pending: dict[str, Future[httpx2.Response]] = {name: pool.submit(ask, name) for name in asked}
        wait_for(lambda: waiting_jobs(gateway) == len(asked))
        gateway.terminate()
        answers = {name: future.result(timeout=30) for name, future in pending.items()}
    assert gateway.wait() == 0

    prediction = answers.pop("prediction")
    assert prediction.status_code == 201, "a prediction is answered as it is, as its contract has it"
    assert prediction.json()["status"] == "starting"
    ids = {"prediction": prediction.json()["id"]}
    stream = answers.pop("stream")
    assert stream.status_code == 200
    event = json.loads(stream.text.partition("event: error\ndata: ")[2].partition("\n")[0])
    assert event["error"]["code"] == "gateway_ending"
    ids["stream"] = stream.headers["X-Prediction-Id"]
    assert ids["stream"] in event["error"]["message"]
    for name, answer in answers.items():
        assert answer.status_code == 503, (name, answer.text)
        assert int(answer.headers["Retry-After"]) >= 1
        ids[name] = answer.headers["X-Prediction-Id"]
        body = answer.json()
        error = body["error"] if name.startswith("openai") else {"code": body["error"], "message": body["detail"]}
        assert error["code"] == "gateway_ending"
        assert ids[name] in error["message"]

    other = service.start("gateway", build_config())
    assert waiting_jobs(other) == len(asked), "no job ended with its gateway"
    service.start("worker", build_config())
    for name in ("openai", "automatic1111", "prediction"):
        again = post(other, asked[name][0], asked[name][1], Prefer="wait=60", **{"Idempotency-Key": name})
        assert again.status_code == 200, again.text
        found = again.json()["id"] if name == "prediction" else again.headers["X-Prediction-Id"]
        assert found == ids[name], "the same job, by the same key"
    for job_id in ids.values():
        url = f"{other.url}/v1/predictions/{job_id}"
        wait_for(partial(has_succeeded, url), timeout_seconds=30)


def test_a_prediction_s_stream_ends_with_an_event_and_is_followed_elsewhere(service: Service) -> None:
    gateway, other = service.start("gateway", build_config()), service.start("gateway", build_config())
    created = post(gateway, "/v1/predictions", PREDICTION).json()
    with httpx2.stream("GET", f"{gateway.url}/v1/predictions/{created['id']}/stream", timeout=30) as stream:
        gateway.terminate()
        text = stream.read().decode()
    assert "event: error\n" in text
    assert "this server is ending" in text
    assert "event: done" not in text
    service.start("worker", build_config())
    again = httpx2.get(f"{other.url}/v1/predictions/{created['id']}/stream", timeout=30).text
    assert "event: output\n" in again
    assert "event: done\ndata: {}\n" in again


def test_within_its_time_a_gateway_that_ends_serves_what_is_open(service: Service) -> None:
    gateway = service.start("gateway", build_config(drain_seconds=60))
    with ThreadPoolExecutor() as pool:
        pending = [pool.submit(post, gateway, "/v1/images/generations", TEXT) for _ in range(3)]
        wait_for(lambda: waiting_jobs(gateway) == 3)
        gateway.terminate()
        gateway.wait_for(lambda: any(line["message"] == "stopping" for line in gateway.log), "stop", 10)
        service.start("worker", build_config())
        assert [future.result(timeout=60).status_code for future in pending] == [200] * 3
    assert gateway.wait() == 0


def test_a_body_that_is_still_coming_when_its_gateway_ends_gets_an_answer_too(service: Service) -> None:
    gateway = service.start("gateway", build_config(drain_seconds=0))
    with open_socket(gateway.url) as connection:
        connection.settimeout(server_module.ANSWER_SECONDS + 10)
        connection.sendall(build_head("POST", "/v1/images/edits", "Content-Length: 1000", "Expect: 100-continue"))
        assert status_of(connection.recv(1 << 16)) == 100, "the route reads"
        gateway.terminate()
        answer = read_all(connection)
    assert status_of(answer) == 503, answer
    assert b'"code":"gateway_ending"' in answer
    assert gateway.wait() == 0


def test_a_lone_process_that_ends_promises_nothing_about_its_jobs() -> None:
    with ServerProcess(config=slow_config()) as server, ThreadPoolExecutor() as pool:
        server.wait_until_ready()
        pending = pool.submit(post, server, "/v1/images/generations", {**TEXT, "num_inference_steps": 100})
        wait_for(
            lambda: 'easel_queue_depth{state="Running"} 1.0' in httpx2.get(f"{server.url}/metrics?labels=none").text
        )
        server.terminate()
        answer = pending.result(timeout=30)
    assert answer.status_code == 503
    assert answer.json()["error"]["message"] == "this server is ending; send the request again in 1 s"


def slow_config() -> ServerConfig:
    """More than a second for the image that is asked for above."""
    config = build_config(drain_seconds=0)
    synthetic = config.engine.synthetic.model_copy(update={"milliseconds_per_image": 5_000})
    return config.model_copy(update={"engine": config.engine.model_copy(update={"synthetic": synthetic})})
