"""Adapters from the API's field to the image: a real gateway, worker and pipeline, by the field of each API."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from easel_contract.add_ons import AdapterConfig, AddOnsConfig

from tests.inference_server.api.serving import IDENTITY, RunningGateway
from tests.inference_server.api.test_recipes import answer_of, pixels, post, read
from tests.support.tiny_engine import tiny_engine

pytestmark = pytest.mark.torch

NAMES = ("ink", "clay")
SEEDED: dict[str, Any] = {"seed": 5}
STEPS: dict[str, str] = {"openai": "num_inference_steps", "replicate": "num_inference_steps", "automatic1111": "steps"}
# What asks for ink at half its weight.
ASKS: dict[str, dict[str, Any]] = {
    "openai": {"prompt": "a cat", "loras": [{"name": "ink", "weight": 0.5}]},
    "replicate": {"prompt": "a cat", "lora_weights": "ink", "lora_scale": 0.5},
    "automatic1111": {"prompt": "a cat <lora:ink:0.5>"},
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    engine = tiny_engine()  # loads torch
    from tests.support.tiny_models import build_sd15  # noqa: PLC0415  # likewise
    from tests.support.tiny_models.adapters import write_lora  # noqa: PLC0415

    directory = tmp_path_factory.mktemp("adapters")
    adapters = tuple(
        AdapterConfig(name=name, source=str(write_lora(directory / f"{name}.safetensors", build_sd15(), seed=seed)))
        for seed, name in enumerate(NAMES)
    )
    held = engine.description
    known = {"weights": held.resolved_revision, "dtype": held.dtype, "versions": held.versions}
    with (
        RunningGateway(engine=engine, add_ons=AddOnsConfig(adapters=adapters)) as gateway,
        gateway.client(**{"Cache-Control": "no-store"}) as client,
    ):
        gateway.facts = replace(gateway.facts, identity=IDENTITY.model_copy(update=known))
        yield client


def generate(client: httpx2.Client, api: str, **asked: Any) -> bytes:
    sides = {"size": "64x64"} if api == "openai" else {"width": 64, "height": 64}
    body = {**sides, **SEEDED, STEPS[api]: 4, **asked}
    match api:
        case "openai":
            answer = client.post("/v1/images/generations", json=body)
        case "replicate":
            answer = client.post("/v1/predictions", json={"input": body}, headers={"Prefer": "wait=60"})
        case _:
            answer = client.post("/sdapi/v1/txt2img", json=body)
    return answer_of(answer, client, api)


def test_an_adapter_changes_its_own_image_alike_in_each_api_and_none_after_it(client: httpx2.Client) -> None:
    plain = {api: generate(client, api, prompt="a cat") for api in ASKS}
    adapted = {api: generate(client, api, **asked) for api, asked in ASKS.items()}
    assert len(set(plain.values())) == len(set(adapted.values())) == 1
    stronger = generate(client, "openai", prompt="a cat", loras={"ink": 1.0})
    assert len({pixels(image).tobytes() for image in (plain["openai"], adapted["openai"], stronger)}) == 3
    for api, image in plain.items():
        assert generate(client, api, prompt="a cat") == image


@pytest.mark.parametrize("api", ASKS)
@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_what_an_image_with_adapters_says_gives_it_again(client: httpx2.Client, api: str, image_format: str) -> None:
    loras = [{"name": "clay", "weight": 0.4}, {"name": "ink", "weight": 0.7}]
    image = generate(client, "openai", prompt="a cat", loras=loras, output_format=image_format)
    text, recipe = read(image)
    assert "<lora:clay:0.4>" in text
    assert post(client, api, recipe) == image


@pytest.mark.parametrize("api", ASKS)
def test_the_text_of_an_image_with_adapters_gives_it_again(client: httpx2.Client, api: str) -> None:
    image = generate(client, "automatic1111", prompt="a cat <lora:ink:0.7>, sitting <lora:clay:0.4>")
    text, _ = read(image)
    assert post(client, api, text) == image
