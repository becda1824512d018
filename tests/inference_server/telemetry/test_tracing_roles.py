"""One request, one trace: gateway and worker as processes, a real Redis between them, a real collector."""

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from easel_contract.server_config import EngineConfig, EngineKind, ModelConfig, ServerConfig, SyntheticConfig

from tests.support.http_receiver import HttpReceiver
from tests.support.otlp_receiver import OtlpReceiver
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
REQUEST_ID = "request-of-a-client"
KEY = "key-of-alice"
PROMPT = "a secret cat"
STEPS = 7
QUICK = "100"  # milliseconds between batches of spans, in place of five seconds
SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def build_config(collector: OtlpReceiver, keys: Any = None) -> ServerConfig:
    return ServerConfig.model_validate(
        {
            "service": "sd",
            "model": ModelConfig(name="test-model", source="test-model"),
            "engine": EngineConfig(
                kind=EngineKind.SYNTHETIC, synthetic=SyntheticConfig(milliseconds_per_step=1, milliseconds_per_image=1)
            ),
            "gateway": {"webhook": {"allowed_networks": ["127.0.0.0/8"]}, "api_keys_directory": keys},
            "tracing": {"endpoint": collector.url},
        }
    )


@pytest.fixture
def collector() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        yield receiver


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def create(url: str, **headers: str) -> httpx2.Response:
    return httpx2.post(
        f"{url}/v1/predictions?key={KEY}",
        json={"input": {"prompt": PROMPT, "num_inference_steps": STEPS, "width": 64, "height": 64}},
        headers={"Authorization": f"Bearer {KEY}", "Prefer": "wait=30", "X-Request-Id": REQUEST_ID, **headers},
        timeout=60,
    )


@pytest.mark.redis
def test_a_request_is_one_connected_trace_over_gateway_queue_and_worker(collector, redis, tmp_path):
    (tmp_path / "alice").write_text(KEY)
    config = build_config(collector, str(tmp_path))
    gateway = ServerProcess(
        "--role", "gateway", config=config, EASEL_REDIS_URL=redis.url, OTEL_BSP_SCHEDULE_DELAY=QUICK
    )
    worker = ServerProcess(
        "--role",
        "worker",
        config=config,
        EASEL_REDIS_URL=redis.url,
        EASEL_POD_NAME="pod-w",
        OTEL_BSP_SCHEDULE_DELAY=QUICK,
    )
    with gateway, worker:
        worker.wait_until_ready()
        answer = create(gateway.wait_until_ready().url, traceparent=f"00-{TRACE_ID}-{CALLER}-01")
        assert answer.status_code == 201
        spans = collector.wait_for("process job", "generate", "finish", "submit job", "POST /v1/predictions")
        worker.terminate()
        gateway.terminate()
        assert (worker.wait(), gateway.wait()) == (0, 0)
    assert {span.trace_id for span in spans.values()} == {TRACE_ID}
    assert {name: spans[span].name for name, span in _parents(spans).items() if span} == {
        "submit job": "POST /v1/predictions",
        "wait in queue": "submit job",
        "process job": "submit job",
        "claim": "process job",
        "generate": "process job",
        "encode": "process job",
        "finish": "process job",
    }
    request, process, generate = spans["POST /v1/predictions"], spans["process job"], spans["generate"]
    assert (request.parent_id, request.service, request.kind) == (CALLER, "sd-gateway", "SERVER")
    assert answer.headers["traceresponse"] == f"00-{TRACE_ID}-{request.span_id}-01"
    assert (process.service, process.kind, spans["submit job"].kind) == ("sd-worker", "CONSUMER", "PRODUCER")
    assert request.attributes["http.response.status_code"] == 201
    assert request.attributes["http.route"] == "/v1/predictions"
    assert request.attributes["easel.request.id"] == process.attributes["easel.request.id"] == REQUEST_ID
    job_id = answer.json()["id"]
    assert process.attributes["messaging.message.id"] == job_id
    assert process.attributes["easel.job.state"] == "Succeeded"
    assert [attributes["easel.step"] for name, attributes in generate.events] == list(range(1, STEPS + 1))
    assert process.began_at_seconds <= generate.began_at_seconds <= generate.ended_at_seconds
    assert generate.ended_at_seconds <= spans["encode"].ended_at_seconds <= spans["finish"].began_at_seconds
    secrets = [PROMPT.encode(), KEY.encode(), b"secret"]
    assert [secret for secret in secrets if secret in b"".join(collector.bodies)] == []
    _assert_logged(gateway, worker, job_id)


def _parents(spans: dict[str, Any]) -> dict[str, str | None]:
    names = {span.span_id: name for name, span in spans.items()}
    return {name: names.get(span.parent_id) for name, span in spans.items()}


def _assert_logged(gateway: ServerProcess, worker: ServerProcess, job_id: str) -> None:
    """The request's id is in every line about it, in both processes; what it asked for in none."""
    (line,) = [line for line in gateway.log if line["message"] == "request" and line["route"] == "/v1/predictions"]
    assert (line["request_id"], line["trace_id"]) == (REQUEST_ID, TRACE_ID)
    lines = [line for line in worker.log if job_id in line["message"]]
    assert len(lines) == 2
    assert {line["request_id"] for line in lines} == {REQUEST_ID}
    for process in (gateway, worker):
        for secret in (PROMPT, "secret", KEY):
            assert secret not in str(process.log)


async def test_a_webhook_is_part_of_the_trace_and_hands_it_on(collector):
    config = build_config(collector)
    async with HttpReceiver() as receiver:
        with ServerProcess(config=config, EASEL_WEBHOOK_SECRET=SECRET, OTEL_BSP_SCHEDULE_DELAY=QUICK) as server:
            url = server.wait_until_ready().url
            async with httpx2.AsyncClient(timeout=60) as client:
                body = {
                    "input": {"prompt": PROMPT, "width": 64, "height": 64, "num_inference_steps": 1},
                    "webhook": f"http://127.0.0.1:{receiver.port}/path?token=secret",
                    "webhook_events_filter": ["completed"],
                }
                await client.post(f"{url}/v1/predictions", json=body)
                spans = await asyncio.to_thread(collector.wait_for, "deliver webhook", "submit job")
    delivery = spans["deliver webhook"]
    assert delivery.parent_id == spans["submit job"].span_id
    assert delivery.attributes["http.response.status_code"] == 200
    assert delivery.attributes["server.address"] == "127.0.0.1"
    assert receiver.received[0].headers["traceparent"].startswith(f"00-{delivery.trace_id}-{delivery.span_id}-")
    assert b"secret" not in b"".join(collector.bodies)


def test_requests_are_served_and_the_process_ends_in_time_though_the_collector_is_away():
    with OtlpReceiver() as gone:
        config = build_config(gone)
    with ServerProcess(config=config) as server:
        url = server.wait_until_ready().url
        assert create(url).status_code == 201
        server.terminate()
        assert server.wait() == 0


def test_a_collector_can_be_named_by_the_environment_alone(collector):
    config = build_config(collector).model_copy(update={"tracing": ServerConfig.model_fields["tracing"].default})
    with ServerProcess(
        config=config, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_BSP_SCHEDULE_DELAY=QUICK
    ) as server:
        assert "traceresponse" in create(server.wait_until_ready().url).headers
        assert collector.wait_for("process job")["process job"].service == "sd"


def test_without_a_collector_there_is_no_trace():
    environment = {name: value for name, value in os.environ.items() if name.startswith("OTEL_")}
    assert environment == {}, "the environment of this test run asks for traces"
    config = ServerConfig(model=ModelConfig(name="m", source="m"), engine=EngineConfig(kind=EngineKind.SYNTHETIC))
    with ServerProcess(config=config) as server:
        assert "traceresponse" not in create(server.wait_until_ready().url).headers
