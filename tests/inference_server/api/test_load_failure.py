"""Who waits for a model that no worker can load is answered at once, with the reason."""

import threading
import time
from typing import Any

import httpx2
import pytest
from easel_contract.server_config import ModelConfig, ServerConfig
from easel_server.stores.facts.load_failure import publish_hold, publish_load_failure
from easel_server.stores.jobs.interface import QueueDepth

from tests.inference_server.api.serving import IDENTITY, RunningGateway, wait_for
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

REASON = "directory /models/sdxl has no model_index.json"
AT_ONCE_SECONDS = 8.0  # far below the ten minutes that a client may wait, and enough for a busy machine

Post = tuple[str, dict[str, Any]]
WAITED_FOR: dict[str, Post] = {
    "images": ("/v1/images/generations", {"prompt": "a cat"}),
    "a stream": ("/v1/images/generations", {"prompt": "a cat", "stream": True}),
    "txt2img": ("/sdapi/v1/txt2img", {"prompt": "a cat"}),
}


def fail(gateway: RunningGateway) -> None:
    gateway.call(publish_load_failure(gateway.stores.facts, IDENTITY.key, REASON))


@pytest.fixture
def asleep():
    """A gateway whose worker claims nothing."""
    with RunningGateway() as gateway:
        gateway.call(gateway.worker.hold())
        yield gateway


def assert_is_refused(answer: httpx2.Response) -> None:
    assert f"no worker can load the model: {REASON}" in answer.text


@pytest.mark.parametrize("name", WAITED_FOR)
def test_a_request_that_would_wait_for_nothing_is_answered_at_once(asleep, name) -> None:
    fail(asleep)
    path, body = WAITED_FOR[name]
    with asleep.client() as client:
        began = time.monotonic()
        answer = client.post(path, json=body)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "30")
    assert_is_refused(answer)
    assert time.monotonic() - began < AT_ONCE_SECONDS
    assert asleep.call(asleep.stores.jobs.depth()).waiting == 0


@pytest.mark.parametrize("name", WAITED_FOR)
def test_one_that_waits_already_hears_of_it_and_leaves_nothing_behind(asleep, name) -> None:
    path, body = WAITED_FOR[name]
    answers: list[httpx2.Response] = []

    def post() -> None:
        with asleep.client() as client:
            answers.append(client.post(path, json=body))

    thread = threading.Thread(target=post)
    thread.start()
    wait_for(lambda: asleep.call(asleep.stores.jobs.depth()).waiting == 1)
    fail(asleep)
    began = time.monotonic()
    thread.join(timeout=20)
    assert time.monotonic() - began < AT_ONCE_SECONDS
    assert answers[0].status_code == (200 if body.get("stream") else 503)  # a stream's head was sent already
    assert_is_refused(answers[0])
    depth: QueueDepth = asleep.call(asleep.stores.jobs.depth())
    assert depth.waiting == 0


def test_a_prediction_waits_and_says_what_for(asleep) -> None:
    fail(asleep)
    with asleep.client() as client:
        answer = client.post("/v1/predictions", json={"input": {"prompt": "a cat"}})
        assert (answer.status_code, answer.json()["status"]) == (201, "starting")
        expected = f"warning: no worker can load the model: {REASON}; this waits until one can\n"
        assert answer.json()["logs"] == expected
        assert REASON in answer.headers["Warning"]
        assert client.get(answer.json()["urls"]["get"]).json()["logs"] == expected


def test_nobody_is_refused_while_a_worker_holds_the_model() -> None:
    with RunningGateway() as gateway, gateway.client() as client:
        gateway.call(publish_hold(gateway.stores.facts, IDENTITY.key))
        fail(gateway)  # another worker
        assert client.post("/v1/images/generations", json={"prompt": "a cat"}).status_code == 200


def test_cached_images_are_answered_all_the_same() -> None:
    with RunningGateway() as gateway, gateway.client() as client:
        body = {"prompt": "a cat", "seed": 7}
        assert client.post("/sdapi/v1/txt2img", json=body).status_code == 200
        fail(gateway)
        assert client.post("/sdapi/v1/txt2img", json=body).headers["X-Cache"] == "hit"


@pytest.mark.redis
def test_a_real_worker_that_fails_to_load_lets_gateways_know() -> None:
    config = ServerConfig(model=ModelConfig(name="gone", source="/no/such/model"))
    with RedisServer() as redis, ServerProcess("--role", "gateway", config=config, EASEL_REDIS_URL=redis.url) as server:
        server.wait_until_ready()
        with ServerProcess("--role", "worker", config=config, EASEL_REDIS_URL=redis.url) as worker:
            assert worker.wait() == 78
        answer = httpx2.post(f"{server.url}/v1/images/generations", json={"prompt": "a cat"}, timeout=AT_ONCE_SECONDS)
    assert answer.status_code == 503
    assert "directory /no/such/model does not exist" in answer.json()["error"]["message"]
