"""Clip skip and eta, by each API's fields, and in what its images say of themselves."""

from typing import Any

import httpx2
import pytest
from easel_server.generation.models import GenerationDefaults, ModelFacts

from tests.inference_server.api.serving import RunningGateway

OPENAI, REPLICATE, TEXT = "/v1/images/generations", "/v1/predictions", "/sdapi/v1/txt2img"
CLIP = "CLIP_stop_at_last_layers"


def post(client: httpx2.Client, path: str, **fields: Any) -> httpx2.Response:
    if path == REPLICATE:
        return client.post(path, json={"input": {"prompt": "a cat", **fields}}, headers={"Prefer": "wait"})
    return client.post(path, json={"prompt": "a cat", **fields})


def read_job(gateway: RunningGateway, answer: httpx2.Response) -> Any:
    assert answer.is_success, answer.text
    with gateway.client() as client:
        shown = client.get(f"/v1/predictions/{answer.headers['X-Prediction-Id']}")
    return shown.json()["input"]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (OPENAI, {"clip_skip": 2}),
        (REPLICATE, {"clip_skip": 2}),
        (TEXT, {"override_settings": {CLIP: 2}}),
        (TEXT, {"override_settings": {CLIP: "2"}}),
        (TEXT, {"clip_skip": 2, "override_settings": {CLIP: 4}}),
    ],
)
def test_clip_skip_is_a_field_of_each_api(path: str, fields: dict[str, Any]) -> None:
    with RunningGateway() as gateway, gateway.client() as client:
        assert read_job(gateway, post(client, path, **fields))["clip_skip"] == 2


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (OPENAI, {"sampler": "DDIM", "eta": 0.5}),
        (REPLICATE, {"scheduler": "DDIM", "eta": 0.5}),
        (TEXT, {"sampler_name": "DDIM", "eta": 0.5}),
        (TEXT, {"sampler_name": "DDIM", "override_settings": {"eta_ddim": "0.5"}}),
    ],
)
def test_eta_is_a_field_of_each_api(path: str, fields: dict[str, Any]) -> None:
    with RunningGateway() as gateway, gateway.client() as client:
        assert read_job(gateway, post(client, path, **fields))["eta"] == 0.5


@pytest.mark.parametrize(
    ("path", "fields", "said"),
    [
        (OPENAI, {"clip_skip": 13}, "clip_skip: is 13, allowed are 1 to 12"),
        (REPLICATE, {"clip_skip": 0}, "clip_skip: is 0, allowed are 1 to 12"),
        (OPENAI, {"sampler": "DDIM", "eta": 1.5}, "eta: is 1.5, allowed are 0.0 to 1.0"),
        (OPENAI, {"sampler": "Euler", "eta": 0.5}, "eta: is 0.5, which has no effect with Euler; it has one with DDIM"),
        (TEXT, {"sampler_name": "DDIM", "override_settings": {"eta_ddim": "much"}}, "eta_ddim: is 'much', allowed are"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(path: str, fields: dict[str, Any], said: str) -> None:
    with RunningGateway() as gateway, gateway.client() as client:
        answer = post(client, path, **fields)
        assert answer.status_code in {400, 422}
        assert said in answer.text


def test_values_that_change_nothing_are_the_same_request() -> None:
    with RunningGateway() as gateway, gateway.client() as client:
        for expected, fields in (
            ("miss", {}),
            ("hit", {"clip_skip": 1}),
            ("hit", {"eta": 0}),
            ("miss", {"clip_skip": 2}),
        ):
            answer = post(client, OPENAI, seed=7, sampler="DDIM", **fields)
            assert answer.headers["X-Cache"] == expected
    assert ModelFacts(defaults=GenerationDefaults()).defaults.clip_skip is None
