"""What the model's safety checker flags is said of each image, in each API, and of images from the cache too."""

import json

import httpx2
import openai
import pytest
from easel_contract.server_config import SafetyPolicy
from easel_server.generation.messages import describe_flagged, find_flagged

from tests.inference_server.api.serving import WARNING, RunningGateway

SAID = "the model's safety checker flagged 3 of 3 images, which are blurred"


def post_openai(client: httpx2.Client, prompt: str) -> httpx2.Response:
    return client.post("/v1/images/generations", json={"prompt": prompt, "n": 3, "seed": 7})


def read_openai(answer: httpx2.Response) -> list[bool]:
    return [image.get("flagged", False) for image in answer.json()["data"]]


def post_automatic1111(client: httpx2.Client, prompt: str) -> httpx2.Response:
    return client.post("/sdapi/v1/txt2img", json={"prompt": prompt, "batch_size": 3, "seed": 7})


def read_automatic1111(answer: httpx2.Response) -> list[bool]:
    return list(json.loads(answer.json()["info"])["flagged"])


def post_replicate(client: httpx2.Client, prompt: str) -> httpx2.Response:
    body = {"input": {"prompt": prompt, "num_outputs": 3, "seed": 7}}
    return client.post("/v1/predictions", json=body, headers={"Prefer": "wait=20"})


def read_replicate(answer: httpx2.Response) -> list[bool]:
    return list(answer.json().get("flagged", [False] * 3))


APIS: pytest.MarkDecorator = pytest.mark.parametrize(
    ("post", "read"),
    [(post_openai, read_openai), (post_automatic1111, read_automatic1111), (post_replicate, read_replicate)],
)


@APIS
def test_a_flagged_image_is_said_to_be_one_and_again_from_the_cache(post, read) -> None:
    with RunningGateway() as gateway, gateway.client() as client:
        for expected in ("miss", "hit", "hit"):
            answer = post(client, "flagged")
            assert answer.headers["X-Cache"] == expected
            assert read(answer) == [False, False, True]
            assert SAID in answer.headers["Warning"]


@APIS
@pytest.mark.parametrize("prompt", ["a cat", "too long"])
def test_other_images_are_not(post, read, prompt: str) -> None:
    with RunningGateway() as gateway, gateway.client() as client:
        assert read(post(client, prompt)) == [False] * 3


def test_a_refused_image_is_a_failed_prediction_that_says_so() -> None:
    with RunningGateway() as gateway, gateway.client() as client:
        prediction = post_replicate(client, "refused").json()
    assert (prediction["status"], prediction["output"]) == ("failed", None)
    assert prediction["error"].startswith("NSFW content: the model's safety checker flagged 1 of 3 images")


def test_a_refused_image_is_a_violation_of_policy_to_openais_client() -> None:
    with RunningGateway() as gateway:
        client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0)
        with client, pytest.raises(openai.BadRequestError) as caught:
            client.images.generate(prompt="refused")
    assert (caught.value.code, caught.value.type) == ("content_policy_violation", "invalid_request_error")
    assert "change the prompt" in caught.value.message


def test_a_refused_image_is_an_error_in_a_stream_too() -> None:
    with RunningGateway() as gateway, gateway.client() as client:
        body = {"prompt": "refused", "stream": True}
        assert '"code": "content_policy_violation"' in client.post("/v1/images/generations", json=body).text
        flagged = client.post("/v1/images/generations", json=body | {"prompt": "flagged", "n": 2}).text
    events = [json.loads(line.removeprefix("data: ")) for line in flagged.splitlines() if line.startswith("data: ")]
    assert [event.get("flagged", False) for event in events] == [False, True]


def test_a_refused_image_is_an_error_of_automatic1111s() -> None:
    with RunningGateway() as gateway, gateway.client() as client:
        answer = post_automatic1111(client, "refused")
    assert (answer.status_code, answer.json()["error"]) == (422, "content_policy_violation")
    assert "NSFW" in answer.json()["detail"]


@pytest.mark.parametrize("policy", [SafetyPolicy.FLAG, SafetyPolicy.BLUR])
@pytest.mark.parametrize("flagged", [[0], [0, 2], list(range(16))])
def test_what_is_said_of_images_is_read_as_it_was(policy: SafetyPolicy, flagged: list[int]) -> None:
    said = describe_flagged(flagged, 16, policy)
    assert find_flagged((WARNING, said)) == set(flagged)
    assert not find_flagged((WARNING, f"the prompt has: {said}"))
