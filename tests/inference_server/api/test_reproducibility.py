"""How far an image depends on its neighbours is the service's choice, and a request's, in each API."""

import json
from typing import Any

import httpx2
import pytest
from easel_contract.gateway_config import DefaultsConfig, GatewayConfig, Reproducibility

from tests.inference_server.api.serving import RunningGateway

NAMES = {"openai": "reproducibility", "replicate": "input.reproducibility"}
NAMES["automatic1111"] = "override_settings.reproducibility"


def post(client: httpx2.Client, api: str, chosen: str | None) -> httpx2.Response:
    given: dict[str, Any] = {"prompt": "a cat", "seed": 7}
    extra = {} if chosen is None else {"reproducibility": chosen}
    match api:
        case "openai":
            return client.post("/v1/images/generations", json={**given, **extra})
        case "replicate":
            body = {"input": {**given, **extra}}
            return client.post("/v1/predictions", json=body, headers={"Prefer": "wait=20"})
    return client.post("/sdapi/v1/txt2img", json={**given, "override_settings": extra})


def read(api: str, answer: httpx2.Response) -> str | None:
    match api:
        case "openai":
            return answer.json()["reproducibility"]
        case "replicate":
            return answer.json()["input"]["reproducibility"]
    return json.loads(answer.json()["info"])["extra_generation_params"].get("Reproducibility", "Close")


@pytest.mark.parametrize("api", NAMES)
def test_a_request_chooses_and_the_answer_says_what_was_chosen(api: str) -> None:
    with RunningGateway() as gateway, gateway.client() as client:
        for chosen in (None, "Close", "Exact"):
            assert read(api, post(client, api, chosen)) == (chosen or "Close")
        generated = [claim.job.parameters.reproducibility for claim in gateway.worker.claims]
        assert generated == ["Close", "Exact"], "Close is the default, so the second was a hit of the cache"


@pytest.mark.parametrize("api", NAMES)
def test_an_image_of_one_kind_is_never_given_for_the_other(api: str) -> None:
    with RunningGateway() as gateway, gateway.client() as client:
        cached = [post(client, api, chosen).headers["X-Cache"] for chosen in ("Close", "Exact", "Exact", "Close")]
    assert cached == ["miss", "miss", "hit", "hit"]


@pytest.mark.parametrize("api", NAMES)
@pytest.mark.parametrize("value", ["exactly", "EXACT!", "1"])
def test_another_value_is_refused_with_those_that_are_allowed(api: str, value: str) -> None:
    with RunningGateway() as gateway, gateway.client() as client:
        answer = post(client, api, value)
        assert answer.status_code in (400, 422)
        for part in (NAMES[api], value, "Close", "Exact"):
            assert part in answer.text
        assert not gateway.worker.claims


@pytest.mark.parametrize("api", NAMES)
def test_a_service_that_is_exact_is_so_unless_a_request_says_otherwise(api: str) -> None:
    configured = DefaultsConfig(reproducibility=Reproducibility.EXACT)
    with RunningGateway(GatewayConfig(defaults=configured)) as gateway, gateway.client() as client:
        assert [read(api, post(client, api, chosen)) for chosen in (None, "Close")] == ["Exact", "Close"]
