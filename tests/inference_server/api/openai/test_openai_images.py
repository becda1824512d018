"""The images API as the `openai` package speaks it, errors by the package's own classes."""

import base64
import threading
from dataclasses import replace

import httpx2
import openai
import pytest
from easel_contract.gateway_config import GatewayConfig, LimitsConfig, RateLimitConfig
from easel_contract.server_config import SyntheticConfig
from easel_server.engine.synthetic_engine import SyntheticEngine
from easel_server.generation.models import describe_model
from easel_server.generation.samplers import SAMPLERS
from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.opening import Stores

from tests.inference_server.api.serving import MODEL, RunningGateway


def openai_client(gateway: RunningGateway, api_key: str = "any") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=api_key, max_retries=0, timeout=20)


@pytest.fixture
def images(gateway):
    with openai_client(gateway) as client:
        yield client.images


def test_an_image_comes_back(images):
    answer = images.generate(model=MODEL, prompt="a cat", extra_body={"seed": 5})
    assert base64.b64decode(answer.data[0].b64_json) == b"a cat 5"
    assert answer.created > 1_700_000_000
    assert (answer.size, answer.output_format) == ("64x64", "png")


def test_every_argument_that_the_package_sends_is_understood(images):
    answer = images.generate(
        model=MODEL,
        prompt="a cat",
        n=3,
        size="128x64",
        response_format="b64_json",
        output_format="webp",
        output_compression=80,
        quality="high",
        style="vivid",
        background="opaque",
        moderation="low",
        user="somebody",
        extra_body={"negative_prompt": "fur", "seed": 9, "num_inference_steps": 7, "guidance_scale": 3.5},
    )
    assert [base64.b64decode(image.b64_json) for image in answer.data] == [b"a cat 9", b"a cat 10", b"a cat 11"]
    assert answer.size == "128x64"


def test_a_url_leads_to_the_image(images):
    answer = images.generate(prompt="a cat", n=2, response_format="url", extra_body={"seed": 5})
    assert [httpx2.get(image.url).content for image in answer.data] == [b"a cat 5", b"a cat 6"]


def test_without_a_seed_each_request_gets_another(images):
    seeds = {images.generate(prompt="a cat").seed for _ in range(3)}
    assert len(seeds) == 3


def test_the_live_config_is_listed(gateway):
    with openai_client(gateway) as client:
        assert [model.id for model in client.models.list()] == [MODEL]
        assert client.models.retrieve(MODEL).owned_by == "easel"
        with pytest.raises(openai.NotFoundError, match="model 'other' is not served here; this service serves 'tiny/"):
            client.models.retrieve("other")


def test_the_engine_says_what_it_is_and_what_it_can():
    engine = SyntheticEngine(MODEL, SyntheticConfig())
    with RunningGateway(engine=engine) as gateway, openai_client(gateway) as client:
        assert client.models.retrieve(MODEL).to_dict()["engine"] is None  # until a worker has reported
        gateway.facts = describe_model(engine.description)
        model = client.models.retrieve(MODEL).to_dict()
        tasks = ["TextToImage", "ImageToImage", "Inpaint", "Upscale"]
        assert (model["engine"], model["tasks"]) == ("synthetic", tasks)
        assert model["samplers"] == list(SAMPLERS)


def test_an_unknown_model_is_not_found(images):
    with pytest.raises(openai.NotFoundError) as caught:
        images.generate(model="dall-e-3", prompt="a cat")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


REFUSALS = {
    "no prompt": ({"prompt": ""}, "prompt", "has 0 characters, allowed are 1 to 4000"),
    "a long prompt": ({"prompt": "x" * 4001}, "prompt", "has 4001 characters, allowed are 1 to 4000"),
    "too many images": ({"n": 5}, "n", "is 5, allowed are 1 to 4"),
    "no images": ({"n": 0}, "n", "is 0, allowed are 1 to 4"),
    "an odd width": ({"size": "65x64"}, "size", "is 65 pixels, allowed is a multiple of 8 from 64 to 2048"),
    "a large height": ({"size": "64x4096"}, "size", "is 4096 pixels, allowed is a multiple of 8 from 64 to 2048"),
    "a size in words": ({"size": "big"}, "size", "is 'big', allowed are \"WIDTHxHEIGHT\""),
    "too many steps": ({"num_inference_steps": 101}, "num_inference_steps", "is 101, allowed are 1 to 100"),
    "a negative seed": ({"seed": -1}, "seed", "is -1, allowed are 0 to 9223372036854775807"),
    "a wild guidance": ({"guidance_scale": 1000}, "guidance_scale", "is 1000.0, allowed are 0.0 to 100.0"),
    "a word for a number": ({"n": "two"}, "n", "got 'two'"),
    "an unknown format": ({"output_format": "gif"}, "output_format", "got 'gif'"),
    "a typo": ({"num_steps": 4}, "num_steps", "is not a known field"),
    "too many partial images": ({"stream": True, "partial_images": 4}, "partial_images", "got 4"),
    "an unknown priority": ({"priority": "urgent"}, "priority", "got 'urgent'"),
    "a priority beyond the key's": (
        {"priority": "High"},
        "priority",
        "is High, allowed for this API key are Low, Normal",
    ),
    "transparency": ({"background": "transparent"}, "background", "got 'transparent'"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_names_the_field_the_value_and_what_is_allowed(images, case):
    body, field, message = REFUSALS[case]
    with pytest.raises(openai.BadRequestError) as caught:
        images.generate(prompt="a cat", extra_body=body)
    assert (caught.value.code, caught.value.param) == ("invalid_value", field)
    assert message in caught.value.message


def test_all_faults_are_reported_at_once(images):
    with pytest.raises(openai.BadRequestError, match=r"num_inference_steps: is 0.*; size: is 65 pixels"):
        images.generate(prompt="a cat", size="65x64", extra_body={"num_inference_steps": 0})


def test_a_size_that_is_too_large_both_ways_is_said_once(images):
    with pytest.raises(openai.BadRequestError) as caught:
        images.generate(prompt="a cat", size="9000x9000")
    assert caught.value.message.count("is 9000 pixels") == 1


def test_a_generation_that_fails_says_why(images):
    with pytest.raises(openai.UnprocessableEntityError, match="the model refused the request: no") as caught:
        images.generate(prompt="fail")
    assert caught.value.code == "generation_failed"


def test_a_full_queue_is_reported_with_a_time_to_come_back():
    with (
        RunningGateway(GatewayConfig(limits=LimitsConfig(max_queue_depth=1))) as gateway,
        openai_client(gateway) as client,
        gateway.client() as raw,
    ):
        gateway.call(gateway.worker.hold())
        assert raw.post("/v1/predictions", json={"input": {"prompt": "waits"}}).status_code == 201
        with pytest.raises(openai.RateLimitError) as caught:
            client.images.generate(prompt="one too many")
        assert caught.value.code == "queue_full"
        assert int(caught.value.response.headers["Retry-After"]) > 0


def test_a_key_beyond_its_rate_learns_when_to_come_back():
    rate = RateLimitConfig(requests_per_minute=60, burst=2)
    with RunningGateway(GatewayConfig(rate_limit=rate)) as gateway, openai_client(gateway) as client:
        first = client.images.with_raw_response.generate(prompt="one")
        client.images.generate(prompt="two")
        with pytest.raises(openai.RateLimitError) as caught:
            client.images.generate(prompt="three")
        headers = caught.value.response.headers
        assert caught.value.code == "rate_limit_exceeded"
        assert (first.headers["RateLimit-Limit"], first.headers["RateLimit-Remaining"]) == ("2", "1")
        assert (headers["RateLimit-Limit"], headers["RateLimit-Remaining"], headers["Retry-After"]) == ("2", "0", "1")


class Unavailable:
    """A store that is away, but for a worker that waits for its next job."""

    def __init__(self, store):
        self._store = store

    def __getattr__(self, name):
        async def fail(*_: object, **__: object) -> None:
            raise StoreUnavailableError("redis.internal:6379", name, "ConnectionError", "check it")

        return self._store.claim if name == "claim" else fail


def make_unavailable(stores: Stores) -> Stores:
    jobs, away = Unavailable(stores.jobs), Unavailable(None)
    return replace(stores, jobs=jobs, cache=away, limits=away, outbox=away, facts=away, pings=(away.ping,))


def test_a_missing_job_store_is_a_503_that_keeps_its_address_to_itself():
    with RunningGateway(wrap=make_unavailable) as gateway, openai_client(gateway) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            client.images.generate(prompt="a cat")
        assert caught.value.response.status_code == 503
        assert caught.value.code == "broker_unavailable"
        assert int(caught.value.response.headers["Retry-After"]) > 0
        assert "redis.internal" not in caught.value.response.text
        ready = httpx2.get(f"{gateway.url}/readyz")
        assert (ready.status_code, ready.json()["reason"]) == (503, "RedisUnavailable")
        assert httpx2.get(f"{gateway.url}/healthz").status_code == 200


def test_a_client_that_leaves_takes_its_job_with_it(gateway):
    before = len(gateway.worker.seen)
    with gateway.client() as client, pytest.raises(httpx2.ReadTimeout):
        client.post("/v1/images/generations", json={"prompt": "slow"}, timeout=0.5)
    [job_id] = gateway.worker.seen[before:]
    job = gateway.call(gateway.stores.jobs.wait(job_id, 10))
    assert job.state == "Canceled"


def test_a_client_with_an_idempotency_key_may_leave_and_come_back(gateway):
    gateway.call(gateway.worker.hold())
    headers = {"Idempotency-Key": "leave-and-return"}
    with gateway.client(**headers) as client, pytest.raises(httpx2.ReadTimeout):
        client.post("/v1/images/generations", json={"prompt": "kept"}, timeout=0.5)
    gateway.do(gateway.worker.go_on)
    with gateway.client(**headers) as client:
        first = client.post("/v1/images/generations", json={"prompt": "kept"})
        second = client.post("/v1/images/generations", json={"prompt": "kept"})
    assert first.status_code == 200
    assert first.headers["X-Prediction-Id"] == second.headers["X-Prediction-Id"]
    assert first.json()["data"] == second.json()["data"]


def test_the_same_idempotency_key_for_something_else_is_a_conflict(gateway):
    with gateway.client(**{"Idempotency-Key": "used-twice"}) as client:
        client.post("/v1/images/generations", json={"prompt": "one"})
        answer = client.post("/v1/images/generations", json={"prompt": "two"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "conflict")


def test_requests_are_served_side_by_side(gateway):
    answers: list[int] = []

    def ask(index: int) -> None:
        with gateway.client() as client:
            answers.append(client.post("/v1/images/generations", json={"prompt": f"cat {index}"}).status_code)

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert answers == [200] * 8


def test_a_jpeg_is_compressed_as_asked_and_cached_by_how(client, gateway):
    def parameters_of(**fields: object) -> tuple[object, str]:
        body = {"prompt": "a compressed cat", "seed": 5, "output_format": "jpeg", **fields}
        answer = client.post("/v1/images/generations", json=body)
        assert answer.status_code == 200, answer.text
        return gateway.worker.claims[-1].job.parameters.quality_percent, answer.headers["X-Cache"]

    assert parameters_of(output_compression=40) == (40, "miss")
    assert parameters_of(output_compression=40) == (40, "hit")
    assert parameters_of(output_compression=41) == (41, "miss")
    assert parameters_of() == (None, "miss")
    assert parameters_of(output_compression=95) == (None, "hit"), "the default is the default"
    refused = client.post("/v1/images/generations", json={"prompt": "a cat", "output_compression": 101})
    assert refused.json()["error"]["param"] == "output_compression"


def test_a_png_loses_nothing_however_it_is_to_be_compressed(client):
    body = {"prompt": "an uncompressed cat", "seed": 5}
    assert client.post("/v1/images/generations", json=body).headers["X-Cache"] == "miss"
    again = client.post("/v1/images/generations", json={**body, "output_compression": 40})
    assert again.headers["X-Cache"] == "hit"
    assert again.json()["warnings"] == ["output_compression: 40 is without effect; a png loses nothing"]


NOTHING_ASKED = {
    **dict.fromkeys(("model", "n", "size", "response_format", "output_format", "stream", "partial_images", "style")),
    "quality": "auto",
    "background": "auto",
    "moderation": "auto",
    "user": "somebody",
    "output_compression": 100,
}


def test_what_leaves_the_choice_to_the_service_is_accepted_without_a_warning(client):
    for given in (NOTHING_ASKED, {"model": ""}, {"quality": "standard", "style": "vivid"}, {"moderation": "low"}):
        answer = client.post("/v1/images/generations", json={"prompt": "a cat", **given})
        assert answer.status_code == 200, answer.text
        assert "Warning" not in answer.headers


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("quality", "hd", "more steps are num_inference_steps"),
        ("style", "natural", "say it in the prompt"),
    ],
)
def test_a_choice_that_one_model_has_not_is_named(client, name, value, reason):
    answer = client.post("/v1/images/generations", json={"prompt": "a cat", name: value})
    assert answer.json()["warnings"] == [f"{name}: {value!r} is without effect; {reason}"]
