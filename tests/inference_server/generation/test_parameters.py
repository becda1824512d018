"""The one table of parameters: every field of a job's parameters has a row, and each row keeps what it says."""

import re
from dataclasses import replace

import pytest
from easel_contract.add_ons import AdapterConfig, AddOnsConfig, UpscalerConfig
from easel_contract.gateway_config import LimitsConfig
from easel_server.api.automatic1111.fields import ImageToImageBody, TextToImageBody
from easel_server.api.openai.fields import EditFields, ImagesBody
from easel_server.api.replicate.fields import PredictionInput
from easel_server.generation.add_ons import AdapterRequest
from easel_server.generation.filling.context import FillContext
from easel_server.generation.filling.table import PARAMETERS, InvalidParametersError, fill_in
from easel_server.generation.models import GenerationDefaults, ModelFacts
from easel_server.generation.parameters import GenerationParameters, list_add_ons
from easel_server.generation.recipes.infotext import build_metadata
from easel_server.generation.tasks import Task

from tests.support.jobs import build_parameters

FACTS = ModelFacts(defaults=GenerationDefaults(width_pixels=64, height_pixels=64, steps=4), tasks=(Task.TEXT_TO_IMAGE,))
CONTEXT = FillContext(FACTS, LimitsConfig(max_steps=10, max_images=2), job_id="a-job")


def test_every_parameter_has_one_row() -> None:
    names = [row.name for row in PARAMETERS]
    assert len(names) == len(set(names))
    assert set(names) == set(GenerationParameters.model_fields)


@pytest.mark.parametrize(
    ("body", "steps", "guidance", "width", "image", "strength"),
    [
        (ImagesBody, "num_inference_steps", "guidance_scale", "size", "image", "strength"),
        (EditFields, "num_inference_steps", "guidance_scale", "size", "image", "strength"),
        (
            PredictionInput,
            "input.num_inference_steps",
            "input.guidance_scale",
            "input.width",
            "input.image",
            "input.prompt_strength",
        ),
        (TextToImageBody, "steps", "cfg_scale", "width", "init_images", "denoising_strength"),
        (ImageToImageBody, "steps", "cfg_scale", "width", "init_images", "denoising_strength"),
    ],
)
def test_whatever_is_refused_goes_by_the_apis_own_name(body, steps, guidance, width, image, strength) -> None:
    names = body.field_names()
    asked = ("steps", "guidance_scale", "width_pixels", "image_digest", "strength")
    assert tuple(names[name] for name in asked) == (steps, guidance, width, image, strength)
    assert names["task"] == "task", "what no field asks for goes by its own name"


def test_what_is_not_given_is_filled_in() -> None:
    filled = fill_in({"prompt": "a cat", "seed": 7}, CONTEXT)
    assert filled == build_parameters(prompt="a cat", seed=7, width_pixels=64, height_pixels=64, steps=4)


def test_all_faults_are_named_at_once_with_the_value_and_what_is_allowed() -> None:
    with pytest.raises(InvalidParametersError) as caught:
        fill_in({"prompt": "", "steps": 11, "guidance_scale": float("nan"), "images": 0, "width_pixels": 65}, CONTEXT)
    faults = {fault.name: fault.message for fault in caught.value.faults}
    assert faults == {
        "prompt": "has 0 characters, allowed are 1 to 4000",
        "steps": "is 11, allowed are 1 to 10",
        "guidance_scale": "is nan, allowed are 0.0 to 100.0",
        "images": "is 0, allowed are 1 to 2",
        "width_pixels": "is 65 pixels, allowed is a multiple of 8 from 64 to 2048",
    }


def test_a_fact_stands_in_the_place_of_the_parameter_of_its_name() -> None:
    text = build_metadata(build_parameters(prompt="a cat", seed=7, sampler=None), {"Seed": 9, "Model": "tiny"})
    assert "Seed: 9" in text
    assert "Seed: 7" not in text
    assert text.endswith("Model: tiny")
    assert "Sampler" not in text


def test_facts_stand_where_readers_of_these_texts_have_always_found_them() -> None:
    facts = {"Schedule type": "Karras", "Model": "tiny", "Version": "easel"}
    text = build_metadata(build_parameters(sampler="DPM++ 2M", strength=0.5, guidance_scale=7.5), facts)
    names = [pair.partition(":")[0] for pair in text.splitlines()[-1].split(", ")]
    assert names == [
        *("Steps", "Sampler", "Schedule type", "CFG scale", "Seed", "Size", "Model", "Denoising strength", "Version")
    ]


OFFERED = replace(
    CONTEXT,
    add_ons=AddOnsConfig(
        adapters=(
            AdapterConfig(name="ink", source="someone/ink", default_weight=0.7),
            AdapterConfig(name="clay", source="/adapters/clay.safetensors"),
            AdapterConfig(name="other", source="someone/other", models=("another-model",)),
        )
    ),
    model="a-model",
)


def test_adapters_in_any_order_are_one_request() -> None:
    ink, clay = AdapterRequest("ink"), AdapterRequest("clay", 0.5)
    first, second = (fill_in({"prompt": "a", "adapters": both}, OFFERED) for both in ((ink, clay), (clay, ink)))
    assert first == second
    assert [(use.name, use.weight) for use in first.adapters] == [("clay", 0.5), ("ink", 0.7)]
    assert first.to_wire() != fill_in({"prompt": "a", "adapters": [ink]}, OFFERED).to_wire()


def test_a_jobs_add_ons_are_those_that_it_uses() -> None:
    parameters = fill_in({"prompt": "a", "adapters": [AdapterRequest("ink")]}, OFFERED)
    assert [each.name for each in list_add_ons(parameters, OFFERED.add_ons)] == ["ink"]
    assert list_add_ons(fill_in({"prompt": "a"}, OFFERED), OFFERED.add_ons) == ()


def test_of_a_file_with_several_names_a_job_has_the_one_that_it_asked_for() -> None:
    file = "/files/ink.safetensors"
    add_ons = AddOnsConfig(
        adapters=(AdapterConfig(name="ink", source=file), AdapterConfig(name="tinte", source=file)),
        upscalers=(UpscalerConfig(name="ink x4", source=file),),
    )
    offered = replace(OFFERED, add_ons=add_ons)
    parameters = fill_in({"prompt": "a", "adapters": [AdapterRequest("tinte")]}, offered)
    assert list_add_ons(parameters, add_ons) == (add_ons.adapters[1],)


@pytest.mark.parametrize(
    ("adapters", "message"),
    [
        ([AdapterRequest("chalk")], "'chalk', which is no adapter of this service; allowed are ink, clay"),
        ([AdapterRequest("other")], "'other', which is no adapter of this service; allowed are ink, clay"),
        ([AdapterRequest("ink"), AdapterRequest("ink", 0.2)], "names 'ink' twice"),
        ([AdapterRequest("ink", 11.0)], "weight of 11.0, allowed are -10 to 10"),
        ([AdapterRequest("ink", float("nan"))], "weight of nan"),
    ],
)
def test_adapters_that_cant_be_had_are_refused_with_what_can(adapters: list[AdapterRequest], message: str) -> None:
    with pytest.raises(InvalidParametersError, match=re.escape(message)):
        fill_in({"prompt": "a", "adapters": adapters}, OFFERED)


def test_a_model_that_takes_no_adapters_says_so() -> None:
    facts = replace(FACTS, features=())
    with pytest.raises(InvalidParametersError, match="this model takes no adapters"):
        fill_in({"prompt": "a", "adapters": [AdapterRequest("ink")]}, replace(OFFERED, facts=facts))


def test_what_asks_for_nothing_new_is_stored_as_it_was() -> None:
    wire = fill_in({"prompt": "a"}, CONTEXT).to_wire()
    assert {"adapters", "controls", "hires", "upscale", "clipSkip", "eta"}.isdisjoint(wire)


@pytest.mark.parametrize(
    ("family", "asked", "default", "expected"),
    [
        ("Stable Diffusion", None, None, None),
        ("Stable Diffusion", 2, None, 2),
        ("Stable Diffusion", None, 2, 2),
        ("Stable Diffusion", 1, 2, None),  # all layers, whatever the service has
        ("Stable Diffusion XL", 2, None, None),  # which takes the last layer but one anyway
        ("Stable Diffusion XL", 3, None, 3),
        ("Flux", 1, None, None),
        ("Flux", None, 2, None),  # a default that the model has no layers for
    ],
)
def test_clip_skip_is_counted_from_the_last_layer_and_left_out_where_it_changes_nothing(
    family: str, asked: int | None, default: int | None, expected: int | None
) -> None:
    from dataclasses import replace  # noqa: PLC0415

    from easel_server.generation.models import GenerationDefaults, ModelFacts  # noqa: PLC0415

    facts = ModelFacts(defaults=replace(GenerationDefaults(), family=family, clip_skip=default))
    given = {"prompt": "a cat"} | ({} if asked is None else {"clip_skip": asked})
    assert fill_in(given, FillContext(facts, LimitsConfig(), "job")).clip_skip == expected


def test_clip_skip_is_refused_for_a_model_without_such_layers() -> None:
    from easel_server.generation.models import GenerationDefaults, ModelFacts  # noqa: PLC0415

    facts = ModelFacts(defaults=GenerationDefaults(family="Flux"))
    with pytest.raises(InvalidParametersError, match=r"clip_skip: is 2, and this model \(Flux\) has no layers to skip"):
        fill_in({"prompt": "a cat", "clip_skip": 2}, FillContext(facts, LimitsConfig(), "job"))
