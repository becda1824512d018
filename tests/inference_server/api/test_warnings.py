"""What is done otherwise than asked is said in each API: in a header, in the body, and again from the cache."""

import json

import httpx2
import pytest
from easel_server.gateway.client_warnings import build_warning_headers
from easel_server.generation.messages import MAX_WARNING_CHARACTERS, MAX_WARNINGS, bound_warnings

from tests.inference_server.api.serving import WARNING, RunningGateway

HEADER = '299 - "the prompt is \\"too long\\" for ?"'


def post_openai(client: httpx2.Client, **given: object) -> httpx2.Response:
    return client.post("/v1/images/generations", json={"prompt": "too long", **given})


def read_openai(answer: httpx2.Response) -> list[str]:
    return answer.json()["warnings"]


def post_automatic1111(client: httpx2.Client, **given: object) -> httpx2.Response:
    return client.post("/sdapi/v1/txt2img", json={"prompt": "too long", **given})


def read_automatic1111(answer: httpx2.Response) -> list[str]:
    return json.loads(answer.json()["info"])["warnings"]


def post_replicate(client: httpx2.Client, **given: object) -> httpx2.Response:
    body = {"input": {"prompt": "too long", **given}}
    return client.post("/v1/predictions", json=body, headers={"Prefer": "wait=20"})


def read_replicate(answer: httpx2.Response) -> list[str]:
    lines = answer.json()["logs"].splitlines()
    assert lines[-1].endswith("4/4"), "Replicate's clients look for progress in the last line"
    return [line.removeprefix("warning: ") for line in lines[:-1]]


APIS: pytest.MarkDecorator = pytest.mark.parametrize(
    ("post", "read"),
    [(post_openai, read_openai), (post_automatic1111, read_automatic1111), (post_replicate, read_replicate)],
)


@APIS
def test_a_warning_of_the_generation_is_in_header_and_body_and_again_from_the_cache(post, read) -> None:
    with RunningGateway() as gateway, gateway.client() as client:
        for expected in ("miss", "hit", "hit"):  # OpenAI's third comes from the gateway's own copy of the answer
            answer = post(client, seed=7)
            assert answer.headers["X-Cache"] == expected
            assert answer.headers["Warning"] == HEADER
            assert read(answer) == [WARNING]


@APIS
def test_an_image_that_is_as_asked_has_no_warning(post, read) -> None:
    with RunningGateway() as gateway, gateway.client() as client:
        answer = post(client, prompt="a cat")
        assert "Warning" not in answer.headers
        assert read(answer) == [] if read is not read_openai else "warnings" not in answer.json()


@APIS
def test_signs_that_no_engine_reads_are_said_to_be_taken_as_words(post, read) -> None:
    with RunningGateway() as gateway, gateway.client() as client:
        for expected in ("miss", "hit", "hit"):
            answer = post(client, prompt="a (cat:1.3) AND [a]", negative_prompt=r"(dog:1.3) [a:b:0.5]", seed=7)
            assert answer.headers["X-Cache"] == expected
            prompt, negative_prompt = read(answer)
            assert prompt.endswith("prompt: 'AND', which composes prompts, isn't applied but taken as a word")
            assert negative_prompt.endswith(
                "negative_prompt: changes under way such as '[a:b:0.5]' aren't applied but taken as words"
            )
            assert answer.headers["Warning"] == f'299 - "{prompt}", 299 - "{negative_prompt}"'


@APIS
def test_a_network_in_a_prompt_is_refused_by_name(client: httpx2.Client, post, read) -> None:
    del read
    answer = post(client, prompt="a cat <lora:detail:1>")
    assert answer.status_code in {400, 422}
    assert "prompt" in answer.text
    assert "detail" in answer.text


def test_events_carry_warnings(client: httpx2.Client) -> None:
    prediction = post_replicate(client).json()
    stream = client.get(prediction["urls"]["stream"]).text
    assert f"event: logs\ndata: warning: {WARNING}\n" in stream
    completed = post_openai(client, stream=True).text.partition("image_generation.completed\ndata: ")[2]
    assert json.loads(completed.partition("\n")[0])["warnings"] == [WARNING]


def test_a_prediction_is_got_with_its_warnings(client: httpx2.Client) -> None:
    answer = client.get(post_replicate(client).json()["urls"]["get"])
    assert answer.headers["Warning"] == HEADER
    assert read_replicate(answer) == [WARNING]


def test_a_header_has_room_for_all_warnings_and_cannot_be_broken_out_of() -> None:
    hostile = 'a"b\\c\r\nX-Evil: 1\x00ö'
    assert build_warning_headers([hostile]) == {"Warning": '299 - "a\\"b\\\\c?X-Evil: 1?"'}
    many = bound_warnings([f"{number} {'x' * 1000}" for number in range(50)])
    assert len(many) == MAX_WARNINGS
    assert many[-1] == "41 further warnings are left out"
    assert max(map(len, many)) == MAX_WARNING_CHARACTERS
    assert len(build_warning_headers(many)["Warning"]) < 4 << 10
