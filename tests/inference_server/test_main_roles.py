"""The whole server: a gateway and a worker as processes of their own, over a real Redis, generating real images."""

import base64
import json
import threading
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import httpx2
import openai
import pytest
from easel_contract.gateway_config import GatewayConfig, LimitsConfig, WebhookConfig
from easel_contract.server_config import ModelConfig, ServerConfig, WorkerConfig
from PIL import Image
from standardwebhooks import Webhook

from tests.inference_server.api.serving import wait_for
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess
from tests.support.tiny_engine import tiny_model_directory
from tests.support.webhook_receiver import WebhookReceiver

pytestmark = [pytest.mark.torch, pytest.mark.redis]

SECRET = "whsec_" + base64.b64encode(b"a signing secret of 32 bytes....").decode()
LONG = {"prompt": "a long one", "num_inference_steps": 900}  # ten seconds at the least


def openai_client(server: ServerProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=60)


class System:
    """Redis, a gateway and a worker."""

    def __init__(self, redis: RedisServer, gateway: ServerProcess, worker: ServerProcess) -> None:
        self.redis, self.gateway, self.worker = redis, gateway, worker
        self.openai = openai_client(gateway)

    def predict(self, body: dict[str, Any], **headers: str) -> dict[str, Any]:
        answer = httpx2.post(f"{self.gateway.url}/v1/predictions", json=body, headers=headers, timeout=70)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def look(self, prediction: dict[str, Any]) -> dict[str, Any]:
        return httpx2.get(prediction["urls"]["get"], timeout=10).json()


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    # The gateway is configured with a directory that it can't see, as in a cluster, where workers alone mount it.
    model = ModelConfig(name="tiny", source=str(tiny_model_directory("sd15")))
    gateway_config = GatewayConfig(
        limits=LimitsConfig(max_steps=1000), webhook=WebhookConfig(allowed_networks=("127.0.0.0/8",))
    )
    config = ServerConfig(model=model, gateway=gateway_config, worker=WorkerConfig(lease_seconds=5, drain_seconds=30))
    with RedisServer() as redis:
        environment: dict[str, Any] = {"EASEL_REDIS_URL": redis.url, "EASEL_WEBHOOK_SECRET": SECRET}
        with (
            ServerProcess("--role", "worker", config=config, EASEL_POD_NAME="worker-1", **environment) as worker,
            ServerProcess("--role", "gateway", config=config, **environment) as gateway,
        ):
            worker.wait_until_ready()
            gateway.wait_until_ready()
            system = System(redis, gateway, worker)
            with system.openai:
                yield system


def test_the_openai_client_gets_an_image_of_the_models_own_size(system):
    answer = system.openai.images.generate(model="tiny", prompt="a cat", extra_body={"num_inference_steps": 4})
    image = Image.open(BytesIO(base64.b64decode(answer.data[0].b64_json)))
    assert (image.format, image.size) == ("PNG", (64, 64))
    assert f"Seed: {answer.seed}, Size: 64x64, Model: tiny" in image.info["parameters"]


def test_the_same_seed_is_the_same_image_and_another_is_another(system):
    def generate(seed: int) -> str:
        answer = system.openai.images.generate(
            prompt="a cat",
            extra_body={"seed": seed, "num_inference_steps": 4},
            extra_headers={"Cache-Control": "no-store"},
        )
        return answer.data[0].b64_json

    first = generate(1)
    assert generate(1) == first
    assert generate(2) != first


def test_progress_is_reported_and_never_falls(system):
    prediction = system.predict({"input": {"prompt": "a cat", "num_inference_steps": 120}})
    seen = []

    def is_over() -> bool:
        now = system.look(prediction)
        if now["logs"]:
            seen.append(int(now["logs"].split("|")[2].split("/")[0]))
        return now["status"] in {"succeeded", "failed", "canceled"}

    wait_for(is_over, timeout_seconds=60)
    assert system.look(prediction)["status"] == "succeeded"
    assert seen == sorted(seen)
    assert len(set(seen)) > 2, f"progress in between: {sorted(set(seen))}"
    assert seen[-1] == 120


def test_a_running_prediction_is_cancelled_at_its_next_step(system):
    prediction = system.predict({"input": LONG})
    wait_for(lambda: system.look(prediction)["status"] == "processing")
    httpx2.post(prediction["urls"]["cancel"], timeout=10)
    wait_for(lambda: system.look(prediction)["status"] == "canceled", timeout_seconds=60)
    ended = system.look(prediction)
    assert ended["output"] is None
    done, steps = map(int, ended["logs"].split("|")[2].split()[0].split("/"))
    assert done < steps == LONG["num_inference_steps"]


def test_webhooks_arrive_signed_at_start_and_end(system):
    with WebhookReceiver() as receiver:
        prediction = system.predict({"input": {"prompt": "a cat", "num_inference_steps": 4}, "webhook": receiver.url})
        wait_for(lambda: len(receiver.received) == 2, timeout_seconds=30)
    reported = [Webhook(SECRET).verify(body.decode(), headers) for headers, body in receiver.received]
    reported = [body if isinstance(body, dict) else json.loads(body) for body in reported]
    assert {one["id"] for one in reported} == {prediction["id"]}
    last = next(one for one in reported if one["status"] == "succeeded")
    image = httpx2.get(last["output"][0], timeout=10)
    assert Image.open(BytesIO(image.content)).size == (64, 64)


def test_without_redis_requests_are_refused_and_it_goes_on_when_redis_is_back(system):
    system.redis.kill()
    with pytest.raises(openai.InternalServerError) as caught:
        system.openai.images.generate(prompt="a cat")
    assert caught.value.response.status_code == 503
    assert int(caught.value.response.headers["Retry-After"]) > 0
    for process in (system.gateway, system.worker):
        code, body = process.ready()
        assert (code, body["reason"]) == (200, "RedisUnavailable")
        assert httpx2.get(f"{process.url}/healthz", timeout=10).status_code == 200
        assert "easel_broker_up 0.0" in httpx2.get(f"{process.url}/metrics?labels=none", timeout=10).text
    system.redis.start()
    for process in (system.gateway, system.worker):
        process.wait_for(lambda process=process: process.ready()[0] == 200, "readiness", 30)
    assert system.openai.images.generate(prompt="a cat", extra_body={"num_inference_steps": 4}).data


def test_metrics_say_what_happened(system):
    worker = httpx2.get(f"{system.worker.url}/metrics?labels=none", timeout=10).text
    gateway = httpx2.get(f"{system.gateway.url}/metrics?labels=none", timeout=10).text
    assert 'easel_engine_info{device="cpu",dtype="float32",engine="diffusers",model="tiny"} 1.0' in worker
    assert 'easel_queue_depth{state="Waiting"} 0.0' in worker
    assert 'easel_jobs_total{outcome="Canceled"} ' in worker
    assert 'easel_http_requests_total{code="200",route="/v1/images/generations"} ' in gateway
    assert 'easel_refusals_total{reason="broker_unavailable"} 1.0' in gateway


def test_a_worker_that_is_asked_to_end_finishes_its_job_first(system):
    """The last test of this file: the worker is gone after it."""
    prediction = system.predict({"input": {"prompt": "a cat", "num_inference_steps": 100}})
    wait_for(lambda: system.look(prediction)["status"] == "processing")
    system.worker.terminate()
    assert system.worker.wait() == 0
    # Its log, not /readyz, which is gone with it: on a busy machine the job is over before anybody asks.
    assert any(line["message"].startswith("draining") for line in system.worker.log)
    assert system.look(prediction)["status"] == "succeeded"
    assert system.worker.errors == ""


def test_one_process_without_redis_serves_and_drains():
    """What a laptop runs: ``easel-server --model DIRECTORY``."""
    with ServerProcess("--model", str(tiny_model_directory("sdxl"))) as server:
        server.wait_until_ready()
        with openai_client(server) as client:
            answer = client.images.generate(model="sdxl", prompt="a cat", extra_body={"num_inference_steps": 2})
        assert answer.size == "128x128"

        answers: list[int] = []
        body = {"prompt": "a cat", "num_inference_steps": 100}

        def ask(size: str) -> None:
            answers.append(
                httpx2.post(f"{server.url}/v1/images/generations", json=body | {"size": size}, timeout=60).status_code
            )

        # Of two sizes, so that one waits.
        asking = [threading.Thread(target=ask, args=(size,)) for size in ("128x128", "64x64")]
        for one in asking:
            one.start()
        depths = ('easel_queue_depth{state="Waiting"} 1.0', 'easel_queue_depth{state="Running"} 1.0')
        wait_for(
            lambda: all(depth in httpx2.get(f"{server.url}/metrics?labels=none", timeout=10).text for depth in depths)
        )
        server.terminate()
        for one in asking:
            one.join(timeout=60)
        assert answers == [200, 200], "open requests are finished before the worker ends, those that wait too"
        assert server.wait() == 0
        assert server.errors == ""
