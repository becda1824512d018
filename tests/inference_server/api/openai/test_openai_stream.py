"""Streamed images as the `openai` package reads them."""

import asyncio
import base64
import json
import socket
import threading
from urllib.parse import urlsplit

import httpx2
import openai
import pytest
from easel_server.stores.errors import StoreUnavailableError

from tests.inference_server.api.serving import wait_for
from tests.support.client_images import encoded, halves


@pytest.fixture
def images(gateway):
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0, timeout=20) as client:
        yield client.images


def test_partial_images_come_before_the_finished_one(images, gateway):
    gateway.do(gateway.worker.steps.release)
    seen = []
    for event in images.generate(prompt="step by step", stream=True, partial_images=2, extra_body={"seed": 5}):
        seen.append(event)
        gateway.do(gateway.worker.steps.release)
        gateway.do(gateway.worker.steps.release)
    partial = [event for event in seen if event.type == "image_generation.partial_image"]
    assert [event.partial_image_index for event in partial] == list(range(len(partial)))
    assert 1 <= len(partial) <= 2
    assert base64.b64decode(partial[0].b64_json) == b"preview 2"
    last = seen[-1]
    assert (last.type, base64.b64decode(last.b64_json)) == ("image_generation.completed", b"step by step 5")
    assert (last.size, last.output_format, last.background) == ("64x64", "png", "opaque")
    assert last.usage.total_tokens == 0


def test_several_images_are_several_events(images):
    events = list(images.generate(prompt="a cat", n=2, stream=True, extra_body={"seed": 5}))
    assert [base64.b64decode(event.b64_json) for event in events] == [b"a cat 5", b"a cat 6"]


def test_a_cached_image_is_streamed_too(images):
    for _ in range(2):
        events = list(images.generate(prompt="a streamed cat", stream=True, extra_body={"seed": 5}))
        assert [event.type for event in events] == ["image_generation.completed"]


def test_an_edit_has_events_of_its_own(images):
    events = list(images.edit(image=encoded(halves()), prompt="a cat", stream=True, partial_images=0))
    assert [event.type for event in events] == ["image_edit.completed"]


def test_a_failure_ends_the_stream_with_the_packages_own_error(images):
    with pytest.raises(openai.APIError, match="the model refused the request: no") as caught:
        list(images.generate(prompt="fail", stream=True))
    assert caught.value.code == "generation_failed"


def test_a_refusal_comes_before_the_stream(images):
    with pytest.raises(openai.BadRequestError) as caught:
        images.generate(prompt="a cat", stream=True, partial_images=4)
    assert caught.value.param == "partial_images"


def test_a_client_that_leaves_its_stream_takes_its_job_with_it(images, gateway):
    before = len(gateway.worker.seen)
    stream = images.generate(prompt="slow", stream=True)
    wait_for(lambda: len(gateway.worker.seen) > before)
    stream.close()
    [job_id] = gateway.worker.seen[before:]
    assert gateway.call(gateway.stores.jobs.wait(job_id, 10)).state == "Canceled"
    wait_for(lambda: gateway.metrics.open_streams == 0)


@pytest.mark.parametrize("trouble", ["the job is gone", "Redis is away"])
def test_a_stream_that_is_left_ends_in_order_whatever_became_of_its_job(images, gateway, monkeypatch, caplog, trouble):
    before, cancelled = len(gateway.worker.seen), []
    cancel = gateway.stores.jobs.cancel

    async def fail(job_id: str) -> None:
        await cancel(job_id)
        cancelled.append(job_id)
        if trouble == "Redis is away":
            raise StoreUnavailableError("redis:6379", "cancel", "ConnectionError", "wait")

    async def find_nothing(_: str) -> None:
        return None

    stream = images.generate(prompt="slow", stream=True)
    wait_for(lambda: len(gateway.worker.seen) > before)
    monkeypatch.setattr(gateway.stores.jobs, "cancel", fail)
    if trouble == "the job is gone":
        monkeypatch.setattr(gateway.stores.jobs, "get", find_nothing)
    stream.close()
    wait_for(lambda: gateway.metrics.open_streams == 0)
    wait_for(lambda: cancelled == gateway.worker.seen[before:])
    gateway.call(asyncio.sleep(0))
    assert "Exception in ASGI application" not in caplog.text


def test_of_two_clients_that_share_a_job_the_first_may_leave(gateway):
    gateway.call(gateway.worker.hold())
    body = {"prompt": "a shared cat", "seed": 77}
    answers: list[httpx2.Response] = []

    def stay() -> None:
        with gateway.client() as client:
            answers.append(client.post("/v1/images/generations", json=body))

    def count(what: str) -> int:
        return gateway.metrics.counts["cache", what]

    misses, shared = count("miss"), count("shared")
    parts = urlsplit(gateway.url)
    text = json.dumps(body)
    first = socket.create_connection((parts.hostname, parts.port), timeout=20)
    head = f"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(text)}\r\n\r\n"
    first.sendall((head + text).encode())
    wait_for(lambda: count("miss") == misses + 1)
    staying = threading.Thread(target=stay)
    staying.start()
    wait_for(lambda: count("shared") == shared + 1)
    first.close()
    gateway.do(gateway.worker.go_on)
    staying.join(timeout=20)
    assert base64.b64decode(answers[0].json()["data"][0]["b64_json"]) == b"a shared cat 77"
    assert answers[0].headers["X-Cache"] == "shared"
