"""Redis goes away under a gateway and a worker, and comes back; and what they all write meanwhile is fit for a log."""

import base64
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from easel_contract.gateway_config import GatewayConfig, WebhookConfig
from easel_contract.server_config import (
    EngineConfig,
    EngineKind,
    ModelConfig,
    ServerConfig,
    SyntheticConfig,
    WorkerConfig,
)
from redis import Redis

from tests.inference_server.api.serving import wait_for
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.redis

SECRET = "whsec_" + base64.b64encode(b"a signing secret of 32 bytes....").decode()
KEY = "esl_live_a-key-that-no-log-shows"
WRONG_KEY = "esl_live_a-key-that-nobody-has"
PROMPT = "a prompt that no log shows"
IMAGES = {"prompt": PROMPT, "num_inference_steps": 2}
BACK_WITHIN_SECONDS = 30.0  # the worker's heartbeats, leases and pauses, on a busy machine


class Service:
    def __init__(self, redis: RedisServer, gateway: ServerProcess, worker: ServerProcess) -> None:
        self.redis, self.gateway, self.worker = redis, gateway, worker
        self.client = httpx2.Client(base_url=gateway.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=60)

    def predict(self, **body: Any) -> httpx2.Response:
        return self.client.post("/v1/predictions", json={"input": IMAGES, **body})

    def is_done(self, prediction: dict[str, Any]) -> bool:
        return self.client.get(f"/v1/predictions/{prediction['id']}").json().get("status") == "succeeded"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    keys: Path = tmp_path_factory.mktemp("keys")
    (keys / "alice").write_text(json.dumps({"keys": [KEY]}))
    (keys / "bob").write_text(f'{{"keys": ["{WRONG_KEY}"], "{WRONG_KEY}": 1}}')  # reported, without the key
    config = ServerConfig(
        model=ModelConfig(name="synthetic", source="synthetic"),
        engine=EngineConfig(kind=EngineKind.SYNTHETIC, synthetic=SyntheticConfig(milliseconds_per_step=20)),
        gateway=GatewayConfig(api_keys_directory=str(keys), webhook=WebhookConfig(allowed_networks=("127.0.0.0/8",))),
        worker=WorkerConfig(lease_seconds=4),
    )
    with RedisServer("--appendfsync", "always") as redis:
        environment: dict[str, Any] = {"EASEL_REDIS_URL": redis.url, "EASEL_WEBHOOK_SECRET": SECRET}
        with (
            ServerProcess("--role", "worker", config=config, **environment) as worker,
            ServerProcess("--role", "gateway", config=config, **environment) as gateway,
        ):
            worker.wait_until_ready()
            gateway.wait_until_ready()
            service = Service(redis, gateway, worker)
            with service.client:
                yield service


def test_an_outage_is_reported_in_each_apis_words_and_everything_goes_on_after_it(service: Service) -> None:
    # One image that takes long enough to be under way when Redis dies, and others behind it.
    long = {**IMAGES, "num_inference_steps": 100}
    predictions = [service.predict(input=long).json() for _ in range(3)]
    wait_for(lambda: service.client.get(f"/v1/predictions/{predictions[0]['id']}").json()["status"] == "processing")

    service.redis.kill()
    answers = [
        service.client.post("/v1/images/generations", json=IMAGES),
        service.predict(),
        service.client.get(f"/v1/predictions/{predictions[0]['id']}"),
        service.client.post("/sdapi/v1/txt2img", json={"prompt": PROMPT, "steps": 2}),
    ]
    readiness = {name: process.ready() for name, process in (("gateway", service.gateway), ("worker", service.worker))}
    health = service.client.get("/healthz").status_code
    service.redis.start()

    assert [answer.status_code for answer in answers] == [503] * 4
    assert all(int(answer.headers["Retry-After"]) > 0 for answer in answers)
    openai, created, found, automatic = (answer.json() for answer in answers)
    assert (openai["error"]["type"], openai["error"]["code"]) == ("server_error", "broker_unavailable")
    assert (created["status"], created["code"]) == (found["status"], found["code"]) == (503, "broker_unavailable")
    assert automatic["error"] == "broker_unavailable"
    assert "127.0.0.1" not in answers[0].text, "the store's address is for the log"
    for code, body in readiness.values():
        assert (code, body["reason"]) == (200, "RedisUnavailable"), "clients of the Service shall hear the 503"
        assert f"127.0.0.1:{service.redis.port}" in body["message"]
    assert health == 200

    wait_for(lambda: service.gateway.ready()[0] == service.worker.ready()[0] == 200, BACK_WITHIN_SECONDS)
    wait_for(lambda: all(map(service.is_done, predictions)), BACK_WITHIN_SECONDS)
    assert service.client.post("/v1/images/generations", json=IMAGES).status_code == 200


def test_a_redis_that_says_nothing_is_given_up_at_once_and_answered_in_each_apis_words(service: Service) -> None:
    cached = {**IMAGES, "seed": 77}
    assert service.client.post("/v1/images/generations", json=cached).status_code == 200
    os.kill(service.redis.pid, signal.SIGSTOP)
    try:
        for _ in range(2):
            for path, body in (
                ("/v1/images/generations", IMAGES),
                ("/v1/predictions", {"input": IMAGES}),
                ("/sdapi/v1/txt2img", {"prompt": PROMPT, "steps": 2}),
            ):
                answer = service.client.post(path, json=body)
                assert answer.status_code == 503, path
                assert int(answer.headers["Retry-After"]) > 0
        for process in (service.gateway, service.worker):
            code, state = process.ready()
            assert (code, state["ready"], state["reason"]) == (200, True, "RedisUnavailable")
            assert "no answer to a PING" in state["message"], "so it was given up before its connections were"
    finally:
        os.kill(service.redis.pid, signal.SIGCONT)
    wait_for(lambda: service.client.post("/v1/images/generations", json=IMAGES).status_code == 200, BACK_WITHIN_SECONDS)


def evicts(process: ServerProcess) -> bool:
    return bool(process.ready()[1]["reason"] == "RedisEvicts")


def test_a_redis_that_evicts_is_refused_until_its_policy_is_changed(service: Service) -> None:
    service.redis.command("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    try:
        for process in (service.gateway, service.worker):
            wait_for(partial(evicts, process), BACK_WITHIN_SECONDS)
            code, state = process.ready()
            assert (code, state["ready"]) == (503, False)
            assert "CONFIG SET maxmemory-policy noeviction" in state["message"]
        assert service.predict().status_code == 503
        metrics = httpx2.get(f"{service.worker.url}/metrics?labels=none").text
        assert "easel_redis_evicts 1.0" in metrics
        assert "easel_broker_up 0.0" in metrics
    finally:
        service.redis.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    wait_for(lambda: service.gateway.ready()[0] == service.worker.ready()[0] == 200, BACK_WITHIN_SECONDS)
    assert service.client.post("/v1/images/generations", json=IMAGES).status_code == 200


def test_whoever_waits_for_a_request_that_redis_has_lost_is_asked_to_send_it_again(service: Service) -> None:
    service.redis.command("FLUSHALL")  # what was before doesn't count
    long = {"num_inference_steps": 100}
    streamed = service.predict(input={**IMAGES, **long}).json()
    requests = [
        ("/v1/images/generations", {**IMAGES, **long}, {}),
        ("/sdapi/v1/txt2img", {"prompt": PROMPT, "steps": 100}, {}),
        ("/v1/predictions", {"input": {**IMAGES, **long}}, {"Prefer": "wait=60"}),
        ("/v1/images/generations", {**IMAGES, **long, "stream": True}, {}),
    ]
    stream = service.client.stream("GET", f"/v1/predictions/{streamed['id']}/stream?progress=true")
    with ThreadPoolExecutor(len(requests)) as pool, stream as following:
        lines = following.iter_lines()
        next(lines)
        waiting = [pool.submit(service.client.post, path, json=body, headers=head) for path, body, head in requests]
        with Redis.from_url(service.redis.url) as redis:
            wait_for(lambda: len(redis.keys("*:job:*")) == 1 + len(requests), BACK_WITHIN_SECONDS)
        service.redis.command("FLUSHALL")
        *answers, events = [each.result() for each in waiting]
        followed = "\n".join(lines)
    assert [answer.status_code for answer in answers] == [503] * 3
    assert all("was lost" in answer.text and int(answer.headers["Retry-After"]) > 0 for answer in answers)
    assert "was lost" in events.text
    assert "was lost" in followed
    assert service.client.post("/v1/images/generations", json=IMAGES).status_code == 200


def test_no_key_prompt_or_image_is_in_any_line_of_any_library(service: Service) -> None:
    client = service.client
    generated = client.post("/v1/images/generations", json={**IMAGES, "seed": 7}).json()["data"][0]["b64_json"]
    client.post("/v1/images/generations", json={**IMAGES, "seed": 7})
    client.post("/v1/images/generations", json={**IMAGES, "num_inference_steps": -1})
    client.post("/v1/images/generations", content=json.dumps(IMAGES)[:-1])
    client.post("/sdapi/v1/txt2img", json={"prompt": PROMPT, "steps": 2})
    client.post("/sdapi/v1/img2img", json={"prompt": PROMPT, "steps": 2, "init_images": [generated]})
    client.get("/v1/models", params={"api_key": KEY, "prompt": PROMPT})
    client.get("/v1/models", headers={"Authorization": f"Bearer {WRONG_KEY}"})
    prediction = service.predict(webhook="http://127.0.0.1:1/hook").json()  # nobody listens: tried again, and logged
    wait_for(lambda: service.is_done(prediction))
    lines = service.gateway.wait_for(
        lambda: (
            [json.dumps(line) for line in service.gateway.log]
            if any("webhook" in line["message"] for line in service.gateway.log)
            else None
        ),
        "line on the webhook",
    )
    written = [*lines, *map(json.dumps, service.worker.log), service.gateway.errors, service.worker.errors]
    assert any("POST" in line for line in lines)
    # The wrong key's beginning is shown by nothing either; an image's first bytes are every PNG's.
    for secret in (KEY, WRONG_KEY, PROMPT, generated[:200], base64.b64encode(KEY.encode()).decode()):
        assert not [line for line in written if secret in line]
