"""A synchronous answer that was delivered gives up its images, unless its client can ask for them again."""

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import openai
import pytest
from easel_server.telemetry.gateway_metrics import CacheResult

from tests.inference_server.api.serving import RunningGateway, wait_for

PREDICTIONS = "/v1/predictions"
BODY = {"prompt": "a lighthouse"}
IDS = "x-prediction-id"


@pytest.fixture
def gateway() -> Iterator[RunningGateway]:
    with RunningGateway() as gateway:
        yield gateway


def used_bytes(gateway: RunningGateway) -> int:
    return gateway.call(gateway.stores.images.usage()).used_bytes


def generate(
    client: httpx2.Client, body: dict[str, Any] | None = None, headers: dict[str, str] | None = None
) -> httpx2.Response:
    answer = client.post("/v1/images/generations", json=BODY | (body or {}), headers=headers)
    assert answer.status_code == 200, answer.text
    return answer


def assert_removed(gateway: RunningGateway, client: httpx2.Client, job_id: str) -> None:
    wait_for(lambda: client.get(f"{PREDICTIONS}/{job_id}").json()["data_removed"])
    prediction = client.get(f"{PREDICTIONS}/{job_id}").json()
    assert (prediction["status"], prediction["output"]) == ("succeeded", None)
    missing = client.get(f"{PREDICTIONS}/{job_id}/output/0")
    assert (missing.status_code, missing.json()["code"]) == (404, "data_removed")
    assert "were delivered with its answer and removed" in missing.json()["detail"]
    assert used_bytes(gateway) == 0


def assert_kept(gateway: RunningGateway, client: httpx2.Client, job_id: str) -> None:
    prediction = client.get(f"{PREDICTIONS}/{job_id}").json()
    assert prediction["data_removed"] is False
    assert client.get(prediction["output"][0]).status_code == 200
    assert used_bytes(gateway) > 0


def test_openais_answer_with_the_images_inside_gives_them_up(gateway: RunningGateway, client: httpx2.Client) -> None:
    answer = generate(client)
    assert base64.b64decode(answer.json()["data"][0]["b64_json"])
    assert_removed(gateway, client, answer.headers[IDS])


def test_what_the_cache_has_it_keeps(gateway: RunningGateway, client: httpx2.Client) -> None:
    first = generate(client, {"seed": 7})
    assert_removed(gateway, client, first.headers[IDS])
    again = generate(client, {"seed": 7})
    assert again.headers["x-cache"] == "hit"
    assert again.json()["data"] == first.json()["data"]


def test_an_answer_with_links_keeps_what_they_lead_to(gateway: RunningGateway, client: httpx2.Client) -> None:
    answer = generate(client, {"response_format": "url"})
    assert_kept(gateway, client, answer.headers[IDS])
    assert client.get(answer.json()["data"][0]["url"]).status_code == 200


def test_a_client_with_an_idempotency_key_may_ask_again(gateway: RunningGateway, client: httpx2.Client) -> None:
    first, again = [generate(client, headers={"Idempotency-Key": "order-1"}) for _ in range(2)]
    assert first.json()["data"] == again.json()["data"]
    assert_kept(gateway, client, first.headers[IDS])


def test_a_prediction_is_kept_though_its_client_waited(gateway: RunningGateway, client: httpx2.Client) -> None:
    created = client.post(PREDICTIONS, json={"input": BODY}, headers={"Prefer": "wait=20"})
    assert created.json()["status"] == "succeeded"
    assert_kept(gateway, client, created.json()["id"])


def test_another_that_waits_for_the_same_images_gets_them(gateway: RunningGateway, client: httpx2.Client) -> None:
    gateway.call(gateway.worker.hold())
    followed = client.post(PREDICTIONS, json={"input": {**BODY, "seed": 7}}).json()
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(generate, client, {"seed": 7})
        wait_for(lambda: gateway.metrics.counts["cache", CacheResult.SHARED])
        gateway.do(gateway.worker.go_on)
        answer = waiting.result()
    wait_for(lambda: client.get(f"{PREDICTIONS}/{answer.headers[IDS]}").json()["data_removed"])
    assert_kept(gateway, client, followed["id"])


def test_a_stream_gives_its_images_up_when_it_has_sent_them(gateway: RunningGateway, client: httpx2.Client) -> None:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="any") as sdk:
        stream = sdk.images.with_raw_response.generate(prompt="a lighthouse", stream=True)
        job_id = stream.headers[IDS]
        events = list(stream.parse())
    assert [event.type for event in events] == ["image_generation.completed"]
    assert_removed(gateway, client, job_id)


def test_automatic1111s_answer_gives_them_up(gateway: RunningGateway, client: httpx2.Client) -> None:
    answer = client.post("/sdapi/v1/txt2img", json=BODY | {"steps": 2})
    assert answer.status_code == 200
    assert answer.json()["images"]
    assert_removed(gateway, client, answer.headers[IDS])
    assert client.get("/sdapi/v1/progress").status_code == 200
