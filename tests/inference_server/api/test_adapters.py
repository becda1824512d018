"""Adapters are asked for in each API as its clients do, and listed where they look."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai
import pytest
from easel_contract.add_ons import AdapterConfig, AddOnsConfig, ControlNetConfig, UpscalerConfig
from easel_contract.server_config import SyntheticConfig
from easel_server.engine.synthetic_engine import SyntheticEngine
from easel_server.generation.add_ons import Feature
from webuiapi import WebUIApi  # type: ignore[import-untyped]

from tests.inference_server.api.serving import MODEL, RunningGateway
from tests.support.client_images import encoded, halves

ADD_ONS = AddOnsConfig(
    adapters=(
        AdapterConfig(
            name="Ink Wash v1.5", source="someone/secret-ink", file="inkWash.safetensors", default_weight=0.7
        ),
        AdapterConfig(name="clay", source="/secret/clay.safetensors"),
        AdapterConfig(name="other", source="someone/other", models=("another-model",)),
    ),
    control_nets=(ControlNetConfig(name="canny", source="someone/canny"),),
    upscalers=(UpscalerConfig(name="4x", source="someone/4x"),),
)
Uses = list[tuple[str, float]]
INK, CLAY = ("Ink Wash v1.5", 0.7), ("clay", 0.5)
SMALL = {"width": 64, "height": 64, "steps": 2}


@pytest.fixture(scope="module")
def gateway() -> Iterator[RunningGateway]:
    with RunningGateway(add_ons=ADD_ONS) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def client(gateway: RunningGateway) -> Iterator[httpx2.Client]:
    with gateway.client(**{"Cache-Control": "no-store"}) as client:
        yield client


def post(client: httpx2.Client, api: str, prompt: str | None = "a cat", **given: Any) -> httpx2.Response:
    body = {"prompt": prompt, **given}
    match api:
        case "openai":
            return client.post("/v1/images/generations", json=body)
        case "replicate":
            return client.post("/v1/predictions", json={"input": body}, headers={"Prefer": "wait=60"})
    return client.post("/sdapi/v1/txt2img", json=body)


def asked_for(gateway: RunningGateway, answer: httpx2.Response) -> tuple[str, Uses]:
    """The prompt and the adapters of the latest job."""
    assert answer.status_code in (200, 201), answer.text
    return latest(gateway)


def latest(gateway: RunningGateway) -> tuple[str, Uses]:
    parameters = gateway.worker.claims[-1].job.parameters
    return parameters.prompt, [(use.name, use.weight) for use in parameters.adapters]


ASKS: dict[str, tuple[str, dict[str, Any], Uses]] = {
    "objects": ("openai", {"loras": [{"name": "clay", "weight": 0.5}]}, [CLAY]),
    "names": ("openai", {"loras": ["Ink Wash v1.5"]}, [INK]),
    "a name": ("openai", {"loras": "ink wash v1.5.safetensors"}, [INK]),
    "weights by name": ("openai", {"loras": {"clay": 0.5, "inkWash": 0.7}}, [INK, CLAY]),
    "an object": ("openai", {"loras": {"name": "clay", "weight": "0.5"}}, [CLAY]),
    "as other services call them": ("openai", {"loras": [{"path": "clay", "scale": 0.5}]}, [CLAY]),
    "JSON in a text": ("openai", {"loras": '[{"name": "clay", "weight": 0.5}]'}, [CLAY]),
    "none": ("openai", {"loras": []}, []),
    "of no weight": ("openai", {"loras": {"clay": 0}}, []),
    "a prediction's objects": ("replicate", {"loras": [{"name": "clay", "weight": 0.5}]}, [CLAY]),
    "flux-dev-lora's": ("replicate", {"lora_weights": "clay", "lora_scale": 0.5}, [CLAY]),
    "two of flux-dev-lora's": (
        "replicate",
        {"lora_weights": "clay", "lora_scale": 0.5, "extra_lora": "inkWash", "extra_lora_scale": 0.7},
        [INK, CLAY],
    ),
    "sdxl's": ("replicate", {"replicate_weights": "clay", "lora_scale": 0.5}, [CLAY]),
    "flux-dev-multi-lora's": ("replicate", {"hf_loras": ["clay", "inkWash"], "lora_scales": [0.5]}, [INK, CLAY]),
    "a scale without an adapter": ("replicate", {"lora_scale": 0.6}, []),
    "an empty name": ("replicate", {"replicate_weights": "", "extra_lora": ""}, []),
    "a setting": ("automatic1111", {"override_settings": {"sd_lora": "Ink Wash v1.5"}}, [INK]),
    "a setting with its weight": (
        "automatic1111",
        {"override_settings": {"sd_lora": "clay", "extra_networks_default_multiplier": 0.5}},
        [CLAY],
    ),
    "no setting": ("automatic1111", {"override_settings": {"sd_lora": "None"}}, []),
    "in the prompt": ("automatic1111", {"prompt": "a cat <lora:clay:0.5>"}, [CLAY]),
    "in the prompt and by the setting": (
        "automatic1111",
        {"prompt": "<lora:clay:0.5> a cat", "override_settings": {"sd_lora": "clay"}},
        [CLAY],
    ),
    "several in the prompt": ("automatic1111", {"prompt": "<lora:inkWash> a cat<lora:clay:0.5:0.5>"}, [INK, CLAY]),
    "switched off": ("automatic1111", {"prompt": "a cat <lora:clay>", "disable_extra_networks": True}, []),
}


@pytest.mark.parametrize("case", ASKS)
def test_adapters_are_asked_for_as_clients_do(gateway: RunningGateway, client: httpx2.Client, case: str) -> None:
    api, given, uses = ASKS[case]
    answer = post(client, api, **{"prompt": "a cat", **given})
    assert asked_for(gateway, answer) == ("a cat", uses)
    assert "Warning" not in answer.headers
    assert [each.name for each in gateway.worker.claims[-1].job.add_ons] == [name for name, _ in uses]


THERE = "allowed are Ink Wash v1.5, clay"
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "one that isn't there": (
        "openai",
        {"loras": ["chalk"]},
        f"loras: asks for 'chalk', which is no adapter of this service; {THERE}",
    ),
    "one of another model": (
        "replicate",
        {"lora_weights": "other"},
        f"input.loras: asks for 'other', which is no adapter of this service; {THERE}",
    ),
    "an address": ("replicate", {"lora_weights": "https://example.com/a.safetensors"}, THERE),
    "one in a prompt": (
        "automatic1111",
        {"prompt": "a <lora:chalk:1>"},
        f"prompt: asks for 'chalk', which is no adapter of this service; {THERE}",
    ),
    "by a setting": ("automatic1111", {"override_settings": {"sd_lora": "chalk"}}, THERE),
    "the same twice": ("automatic1111", {"prompt": "<lora:clay:1> <lora:CLAY:1>"}, "prompt: names 'clay' twice"),
    "two weights": ("automatic1111", {"prompt": "<lora:clay:1:0.5>"}, "prompt: has '<lora:clay:1:0.5>', whose weights"),
    "a hypernetwork": ("automatic1111", {"prompt": "<hypernet:clay:1>"}, "hypernetworks can't be asked for"),
    "a comma": ("automatic1111", {"prompt": "<lora:clay:0,8>"}, "write <lora:clay:0.8>"),
    "a tag where there is a field": (
        "openai",
        {"prompt": "a <lora:clay:1>"},
        "prompt: has '<lora:clay:1>', which isn't read of this text; ask for adapters by `loras` instead",
    ),
    "a tag in a negative prompt": (
        "openai",
        {"negative_prompt": "a <lora:clay:1>"},
        "negative_prompt: has '<lora:clay:1>', which isn't read of this text",
    ),
    "a tag in a prediction": ("replicate", {"prompt": "a <lora:clay:1>"}, "ask for adapters by `loras` instead"),
    "no weight": (
        "openai",
        {"loras": {"clay": "strong"}},
        "loras: has a weight of 'strong' for 'clay', which is no number",
    ),
    "a heavy one": ("openai", {"loras": {"clay": 11}}, "has a weight of 11.0, allowed are -10 to 10"),
    "an unknown key": ("openai", {"loras": [{"name": "clay", "force": 1}]}, "allowed are objects such as"),
    "a number": ("replicate", {"loras": 7}, "allowed are objects such as"),
    "broken JSON": ("openai", {"loras": "[{"}, "can't be read as JSON"),
    "too many": ("openai", {"loras": ["clay"] * 9}, "asks for 9 adapters, allowed are 8"),
    "far too many": ("openai", {"loras": ["clay"] * 1000}, "asks for 1000 adapters"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cant_be_had_is_refused_with_what_can(client: httpx2.Client, case: str) -> None:
    api, given, message = REFUSED[case]
    answer = post(client, api, **{"prompt": "a cat", **given})
    assert answer.status_code in (400, 422)
    assert message in json.dumps(answer.json(), ensure_ascii=False), answer.text
    assert "secret" not in answer.text


def test_in_a_negative_prompt_an_adapter_is_left_out_and_said_so(
    gateway: RunningGateway, client: httpx2.Client
) -> None:
    answer = post(client, "automatic1111", negative_prompt="a dog <lora:clay:1>")
    assert asked_for(gateway, answer) == ("a cat", [])
    assert gateway.worker.claims[-1].job.parameters.negative_prompt == "a dog"
    assert "negative_prompt: '<lora:clay:1>' is without effect" in answer.headers["Warning"]


def test_an_edit_takes_adapters_as_a_form_and_as_json(gateway: RunningGateway, client: httpx2.Client) -> None:
    form = {"prompt": "a cat", "loras": '[{"name": "clay", "weight": 0.5}]'}
    answer = client.post("/v1/images/edits", data=form, files={"image": encoded(halves())})
    assert asked_for(gateway, answer) == ("a cat", [CLAY])


def test_an_answer_repeats_the_adapters_in_the_apis_own_words(client: httpx2.Client) -> None:
    info = json.loads(post(client, "automatic1111", "a cat <lora:CLAY:0.5>").json()["info"])
    assert info["prompt"] == "a cat <lora:clay:0.5>"
    assert info["infotexts"][0].startswith("a cat <lora:clay:0.5>\n")
    prediction = post(client, "replicate", lora_weights="clay", lora_scale=0.5).json()
    assert prediction["input"]["loras"] == [{"name": "clay", "weight": 0.5}]


def test_adapters_are_listed_wherever_clients_look_and_their_sources_nowhere(client: httpx2.Client) -> None:
    answers = [
        client.get(f"/v1/models/{MODEL}"),
        client.get("/sdapi/v1/loras"),
        client.get(f"/v1/models/{MODEL}/versions"),
    ]
    model, loras, versions = (answer.json() for answer in answers)
    assert model["adapters"] == [
        {"name": "Ink Wash v1.5", "default_weight": 0.7},
        {"name": "clay", "default_weight": 1.0},
    ]
    assert (model["control_nets"], model["upscalers"], model["limits"]["max_adapters"]) == (["canny"], ["4x"], 8)
    assert [each["name"] for each in loras] == ["Ink Wash v1.5", "clay"]
    assert set(loras[0]) == {"name", "alias", "path", "metadata"}
    inputs = versions["results"][0]["openapi_schema"]["components"]["schemas"]["Input"]["properties"]
    assert inputs["lora_weights"]["examples"] == ["Ink Wash v1.5", "clay"]
    assert "secret" not in "".join(answer.text for answer in answers)
    assert client.post("/sdapi/v1/refresh-loras").status_code == 200


def test_what_a_model_cant_do_is_not_listed_and_refused_by_name() -> None:
    with RunningGateway(add_ons=ADD_ONS) as gateway, gateway.client() as client:
        gateway.facts = replace(gateway.facts, features=(Feature.HIRES,))
        model = client.get(f"/v1/models/{MODEL}").json()
        assert (model["features"], model["adapters"], model["control_nets"], model["upscalers"]) == (
            ["Hires"],
            [],
            [],
            [],
        )
        assert client.get("/sdapi/v1/loras").json() == []
        refused = post(client, "automatic1111", "a cat <lora:clay:1>")
    assert refused.status_code == 422
    assert "asks for 'clay', and this model takes no adapters; leave it out" in refused.json()["detail"]


def test_a_recipes_adapters_come_again_and_a_field_beside_it_goes_first(
    gateway: RunningGateway, client: httpx2.Client
) -> None:
    key = ADD_ONS.adapters[1].key
    recipe = {"easel": 1, "parameters": {"prompt": "a cat", "adapters": [{"name": "clay", "weight": 0.5, "key": key}]}}
    for api, name in (("openai", "recipe"), ("replicate", "recipe"), ("automatic1111", "infotext")):
        written = json.dumps(recipe) if api == "automatic1111" else recipe
        given: dict[str, Any] = {name: written, **({"prompt": None} if api == "automatic1111" else {})}
        answer = post(client, api, **given)
        assert asked_for(gateway, answer) == ("a cat", [CLAY])
        assert "Warning" not in answer.headers
    assert asked_for(gateway, post(client, "openai", recipe=recipe, loras=[])) == ("a cat", [])
    moved = json.loads(json.dumps(recipe).replace(key, "0" * 16))
    answer = post(client, "openai", recipe=moved)
    assert "adapter 'clay' comes from elsewhere than the recipe's" in answer.json()["warnings"][0]
    gone = post(client, "openai", recipe=json.loads(json.dumps(recipe).replace("clay", "chalk")))
    assert f"asks for 'chalk', which is no adapter of this service; {THERE}" in gone.text


def test_what_an_image_says_of_its_adapters_asks_for_them_again() -> None:
    engine = SyntheticEngine(MODEL, SyntheticConfig(milliseconds_per_image=1))
    with RunningGateway(engine=engine, add_ons=ADD_ONS) as gateway, gateway.client() as client:
        prompt = "a cat, sitting <lora:clay:0.5> <lora:Ink Wash v1.5:0.7>"
        made = post(client, "automatic1111", prompt, seed=5, **SMALL).json()
        image = made["images"][0]
        info = client.post("/sdapi/v1/png-info", json={"image": image}).json()
        assert info["info"].startswith("a cat, sitting <lora:Ink Wash v1.5:0.7> <lora:clay:0.5>\n")
        again = client.post("/sdapi/v1/txt2img", json=info["parameters"])
        assert "Warning" not in again.headers, again.headers["Warning"]
        assert json.loads(again.json()["info"])["infotexts"] == [info["info"]]
        by_text = post(client, "automatic1111", None, infotext=info["info"])
        assert json.loads(by_text.json()["info"])["infotexts"] == [info["info"]]
        prediction = post(client, "replicate", None, recipe=info["info"]).json()
        assert prediction["input"]["prompt"] == "a cat, sitting"
        assert prediction["input"]["loras"] == [
            {"name": "Ink Wash v1.5", "weight": 0.7},
            {"name": "clay", "weight": 0.5},
        ]


def test_webuiapis_prompt_asks_for_adapters(gateway: RunningGateway) -> None:
    parts = urlsplit(gateway.url)
    api = WebUIApi(host=parts.hostname, port=parts.port)
    with api.session:
        assert [each["name"] for each in api.get_loras()] == ["Ink Wash v1.5", "clay"]
        response = api.session.post(f"{api.baseurl}/txt2img", json={"prompt": "a cat <lora:clay:0.5>", **SMALL})
    assert response.status_code == 200
    assert latest(gateway) == ("a cat", [CLAY])


def test_openais_package_asks_by_an_extra_field(gateway: RunningGateway) -> None:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as api:
        api.images.generate(model=MODEL, prompt="a cat", extra_body={"loras": [{"name": "clay", "weight": 0.5}]})
        assert latest(gateway) == ("a cat", [CLAY])
        image = ("image.png", encoded(halves()), "image/png")
        api.images.edit(model=MODEL, image=image, prompt="a hat", extra_body={"loras": '{"clay": 0.5}'})
    assert latest(gateway) == ("a hat", [CLAY])


def test_replicates_package_asks_as_of_flux_dev_lora(gateway: RunningGateway, replicate: Any) -> None:
    given = {"prompt": "a cat", "lora_weights": "clay", "lora_scale": 0.5}
    replicate.predictions.create(version=MODEL, input=given).wait()
    assert latest(gateway) == ("a cat", [CLAY])
