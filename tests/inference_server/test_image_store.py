"""The room for images as seen from outside: processes, a real Redis, a real bucket."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx2
import obstore
import pytest
from easel_contract import metrics as contract
from easel_contract.gateway_config import GatewayConfig, ResultsConfig
from easel_contract.server_config import (
    BucketConfig,
    EngineConfig,
    EngineKind,
    ModelConfig,
    ServerConfig,
    SyntheticConfig,
)
from obstore.store import S3Store

from tests.inference_server.api.serving import wait_for
from tests.support.redis_server import RedisServer
from tests.support.s3_server import ACCESS_KEY_ID, BUCKET, SECRET_ACCESS_KEY, S3Server
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.redis

BUDGET = 1 << 20  # one image of 512 pixels a side may take 0.77 MiB
PREDICTIONS = "/v1/predictions"
GENERATIONS = "/v1/images/generations"
PROMPT = {"prompt": "a lighthouse"}
SLOW = {**PROMPT, "num_inference_steps": 100}  # some seconds


def build_config(service: str, *, bucket: BucketConfig | None = None, budget: int | None = BUDGET) -> ServerConfig:
    return ServerConfig(
        service=service,
        model=ModelConfig(name="synthetic", source="synthetic"),
        engine=EngineConfig(kind=EngineKind.SYNTHETIC, synthetic=SyntheticConfig(milliseconds_per_step=50)),
        gateway=GatewayConfig(results=ResultsConfig(max_bytes=budget)),
        bucket=bucket,
    )


class Service:
    """A gateway and a worker."""

    def __init__(self, config: ServerConfig, stack: ExitStack, **environment: Any) -> None:
        self.worker = stack.enter_context(ServerProcess("--role", "worker", config=config, **environment))
        self.gateway = stack.enter_context(ServerProcess("--role", "gateway", config=config, **environment))
        self.worker.wait_until_ready()
        self.gateway.wait_until_ready()
        self.client = stack.enter_context(httpx2.Client(base_url=self.gateway.url, timeout=60))

    def predict(self, body: dict[str, Any], **headers: str) -> httpx2.Response:
        return self.client.post(PREDICTIONS, json={"input": body}, headers=headers)

    def look(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get(f"{PREDICTIONS}/{job_id}").json()
        return found

    def wait(self, job_id: str) -> dict[str, Any]:
        wait_for(lambda: self.look(job_id)["status"] == "succeeded", 60)
        return self.look(job_id)

    def figure(self, name: str, label: str) -> float:
        lines = self.client.get("/metrics?labels=none").text.splitlines()
        (line,) = [line for line in lines if line.startswith(f"{name}{{") and label in line]
        return float(line.rpartition(" ")[2])

    def room(self, kind: str) -> float:
        return self.figure(contract.IMAGE_STORE_BYTES, f'kind="{kind}"')


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def test_a_full_service_refuses_new_requests_alone_says_so_everywhere_and_leaves_its_neighbour_alone(
    redis: RedisServer,
) -> None:
    with ExitStack() as stack:
        full, other = (
            Service(build_config(name, budget=BUDGET), stack, EASEL_REDIS_URL=redis.url) for name in ("full", "other")
        )
        job_id = full.predict(SLOW).json()["id"]
        assert full.room("budget") == BUDGET
        assert BUDGET / 2 < full.room("reserved") < BUDGET
        assert full.room("used") == 0
        assert full.gateway.ready() == (200, {"ready": True, "reason": "Available", "message": "takes work"})

        refusals = [
            full.predict(PROMPT),
            full.client.post(GENERATIONS, json=PROMPT),
            full.client.post("/sdapi/v1/txt2img", json=PROMPT),
        ]
        assert [answer.status_code for answer in refusals] == [507, 507, 507]
        sentence = refusals[0].json()["detail"]
        assert sentence.startswith("the store for images is full: of 1.0 MiB for this service's images 0 B are taken")
        assert sentence.endswith("lower gateway.results.ttlSeconds, or keep images in a bucket")
        assert refusals[1].json()["error"] | {"message": ""} == {
            "message": "",
            "type": "server_error",
            "param": None,
            "code": "image_store_full",
        }
        assert full.figure(contract.REFUSALS_TOTAL, 'reason="image_store_full"') == 3
        code, state = full.gateway.ready()
        assert (code, state["ready"], state["reason"]) == (200, True, "ImageStoreFull")
        assert "new requests are refused: of 1.0 MiB" in state["message"]

        assert other.client.post(GENERATIONS, json=PROMPT).status_code == 200

        output = full.wait(job_id)["output"]  # what was accepted is done, and can be fetched
        assert full.client.get(output[0]).headers["content-type"] == "image/png"
        assert 0 < full.room("used") < BUDGET / 4
        assert full.room("reserved") == 0
        assert full.gateway.ready()[1]["reason"] == "Available"
        assert full.client.post(GENERATIONS, json=PROMPT).status_code == 200


def test_a_store_that_finished_images_fill_says_when_there_will_be_room(redis: RedisServer) -> None:
    with ExitStack() as stack:
        service = Service(build_config("full"), stack, EASEL_REDIS_URL=redis.url)
        refused = None
        for number in range(200):
            answer = service.predict({**PROMPT, "seed": number}, Prefer="wait=20")
            if answer.status_code == 507:
                refused = answer
                break
        assert refused is not None
        assert 3500 < int(refused.headers["retry-after"]) <= 3600
        assert "the next results expire in 3" in refused.json()["detail"]


def test_a_redis_without_memory_refuses_new_requests_with_a_true_sentence_and_finishes_the_others(
    redis: RedisServer,
) -> None:
    with ExitStack() as stack:
        service = Service(build_config("service", budget=None), stack, EASEL_REDIS_URL=redis.url)
        job_id = service.predict(SLOW).json()["id"]
        file = service.client.post("/v1/files", files={"content": ("a.png", b"\x89PNG\r\n\x1a\n", "image/png")}).json()
        wait_for(lambda: service.look(job_id)["status"] == "processing")
        redis.command("CONFIG", "SET", "maxmemory", "1")
        refused = service.predict(PROMPT)
        assert (refused.status_code, refused.json()["code"]) == (507, "out_of_memory")
        assert "has no memory left for new ones; requests under way go on" in refused.json()["detail"]
        assert service.client.get(service.wait(job_id)["output"][0]).status_code == 200
        assert [each["id"] for each in service.client.get(PREDICTIONS).json()["results"]] == [job_id]
        assert service.client.get(file["urls"]["get"]).status_code == 200
        assert service.client.delete(file["urls"]["get"]).status_code == 204, "which is how to make room"
        status, state = service.gateway.ready()
        assert (status, state["reason"]) == (200, "RedisFull"), "ready, and not all is well"
        assert "new requests are refused: Redis has used its maxmemory" in state["message"]
        assert service.worker.ready()[1]["reason"] == "Available", "it has nothing new to store"
        assert "easel_redis_full 1.0" in service.client.get("/metrics?labels=none").text
        redis.command("CONFIG", "SET", "maxmemory", "0")
        assert service.predict(PROMPT).status_code == 201


def keys_in_bucket(server: S3Server) -> set[str]:
    store = S3Store(
        BUCKET,
        endpoint=server.endpoint,
        region="us-east-1",
        access_key_id=ACCESS_KEY_ID,
        secret_access_key=SECRET_ACCESS_KEY,
        client_options={"allow_http": True},
    )
    return {each["path"] for batch in obstore.list(store, "default/with-a-bucket/") for each in batch}


def test_with_a_bucket_links_lead_there_and_what_is_not_needed_is_deleted(
    redis: RedisServer, s3_server: S3Server
) -> None:
    bucket = BucketConfig(name=BUCKET, endpoint=s3_server.endpoint)
    behind_cdn = bucket.model_copy(update={"public_base_url": "https://images.example.com"})
    environment: dict[str, Any] = {"EASEL_REDIS_URL": redis.url, **s3_server.environment}
    with ExitStack() as stack:
        service = Service(build_config("with-a-bucket", bucket=bucket, budget=None), stack, **environment)
        assert service.room("budget") == 64 << 30
        prediction = service.wait(service.predict(PROMPT).json()["id"])
        (link,) = prediction["output"]
        assert link.startswith(f"{s3_server.endpoint}/{BUCKET}/default/with-a-bucket/{prediction['id']}-")
        fetched = httpx2.get(link)  # with nothing but the link
        assert (fetched.status_code, fetched.headers["content-type"]) == (200, "image/png")
        through_gateway = service.client.get(f"{PREDICTIONS}/{prediction['id']}/output/0")
        assert through_gateway.content == fetched.content
        kept = keys_in_bucket(s3_server)
        assert len(kept) == 1

        url = service.client.post(GENERATIONS, json={**PROMPT, "response_format": "url"}).json()["data"][0]["url"]
        assert httpx2.get(url).status_code == 200
        assert len(keys_in_bucket(s3_server)) == 2
        answer = service.client.post(GENERATIONS, json=PROMPT)
        assert answer.json()["data"][0]["b64_json"]
        wait_for(lambda: service.look(answer.headers["x-prediction-id"])["data_removed"])
        wait_for(lambda: len(keys_in_bucket(s3_server)) == 2)

        config = build_config("with-a-bucket", bucket=behind_cdn, budget=None)
        gateway = stack.enter_context(ServerProcess("--role", "gateway", config=config, **environment))
        gateway.wait_until_ready()
        seen = httpx2.get(f"{gateway.url}{PREDICTIONS}/{prediction['id']}").json()
        assert seen["output"] == [f"https://images.example.com/{next(iter(kept))}"]


def test_a_bucket_that_is_away_is_reported_and_its_jobs_wait_for_it(redis: RedisServer) -> None:
    with ExitStack() as stack, S3Server() as server:
        bucket = BucketConfig(name=BUCKET, endpoint=server.endpoint)
        environment = {"EASEL_REDIS_URL": redis.url, **server.environment}
        service = Service(build_config("with-a-bucket", bucket=bucket, budget=None), stack, **environment)
        server.kill()
        job_id = service.predict(PROMPT).json()["id"]
        wait_for(lambda: service.worker.ready()[1]["reason"] == "BucketUnavailable", 60)
        code, state = service.worker.ready()
        assert (code, state["ready"]) == (200, True)
        assert f"bucket at {server.endpoint}/{BUCKET} is unavailable: PUT failed" in state["message"]
        assert service.look(job_id)["status"] == "processing"
        server.start()
        prediction = service.wait(job_id)
        assert httpx2.get(prediction["output"][0]).status_code == 200
        wait_for(lambda: service.worker.ready()[1]["reason"] == "Available", 60)
