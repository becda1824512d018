"""What is so for a family: which files show it, and what follows for a request."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from easel_contract.add_ons import AddOnsConfig, ControlNetConfig
from easel_contract.gateway_config import LimitsConfig
from easel_server.generation.add_ons import ControlPasses, ControlRequest, Feature, HiresRequest
from easel_server.generation.families import FAMILIES, OTHER, NegativePrompts, StrengthRule, find_family, get_family
from easel_server.generation.filling.context import FillContext
from easel_server.generation.filling.table import InvalidParametersError, fill_in
from easel_server.generation.models import GenerationDefaults, ModelFacts, read_defaults
from easel_server.generation.request import InputImages

from tests.support.jobs import build_parameters

LEADING = {"timestep_spacing": "leading", "prediction_type": "epsilon"}
TRAILING = {"timestep_spacing": "trailing", "prediction_type": "epsilon"}
ZERO_SNR = {"timestep_spacing": "trailing", "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
LCM = {"_class_name": "LCMScheduler", "timestep_spacing": "leading"}
# What published repositories have in their files: class, denoiser, scheduler; and what suits the model.
REPOSITORIES: dict[str, tuple[tuple[str, dict[str, Any], dict[str, Any]], tuple[str, int, int, float]]] = {
    "stable-diffusion-v1-5": (
        ("StableDiffusionPipeline", {"sample_size": 64}, {"_class_name": "PNDMScheduler"}),
        ("Stable Diffusion", 512, 30, 7.5),
    ),
    "stable-diffusion-2-1": (
        ("StableDiffusionPipeline", {"sample_size": 96}, {"prediction_type": "v_prediction"}),
        ("Stable Diffusion", 768, 30, 7.5),
    ),
    "a-zero-snr-model": (
        ("StableDiffusionPipeline", {"sample_size": 96}, ZERO_SNR),
        ("Stable Diffusion", 768, 30, 7.5),
    ),
    "sd-turbo": (("StableDiffusionPipeline", {"sample_size": 64}, TRAILING), ("SD Turbo", 512, 4, 0.0)),
    "with-a-fused-lcm": (
        ("StableDiffusionPipeline", {"sample_size": 64}, LCM),
        ("Stable Diffusion with LCM", 512, 4, 1.0),
    ),
    "LCM_Dreamshaper_v7": (
        ("LatentConsistencyModelPipeline", {"sample_size": 96, "time_cond_proj_dim": 256}, LCM),
        ("LCM", 768, 4, 8.5),
    ),
    "stable-diffusion-xl-base-1.0": (
        ("StableDiffusionXLPipeline", {"sample_size": 128}, LEADING),
        ("Stable Diffusion XL", 1024, 30, 5.0),
    ),
    "sdxl-turbo": (("StableDiffusionXLPipeline", {"sample_size": 64}, TRAILING), ("SDXL Turbo", 512, 4, 0.0)),
    "lcm-sdxl": (
        ("StableDiffusionXLPipeline", {"sample_size": 128, "time_cond_proj_dim": 256}, LCM),
        ("Stable Diffusion XL with embedded guidance", 1024, 4, 8.0),
    ),
    "stable-diffusion-3.5-medium": (
        ("StableDiffusion3Pipeline", {"sample_size": 128}, {"shift": 3.0}),
        ("Stable Diffusion 3", 1024, 28, 7.0),
    ),
    "stable-diffusion-3.5-large-turbo": (
        ("StableDiffusion3Pipeline", {"sample_size": 128}, {"shift": 3.0}),
        ("Stable Diffusion 3 Turbo", 1024, 4, 0.0),
    ),
    "FLUX.1-dev": (("FluxPipeline", {"guidance_embeds": True}, {"shift": 3.0}), ("Flux", 1024, 28, 3.5)),
    "FLUX.1-schnell": (("FluxPipeline", {"guidance_embeds": False}, {"shift": 1.0}), ("Flux schnell", 1024, 4, 0.0)),
    "PixArt-XL-2-1024-MS": (
        ("PixArtAlphaPipeline", {"sample_size": 128}, {"_class_name": "DPMSolverMultistepScheduler"}),
        ("PixArt alpha", 1024, 20, 4.5),
    ),
    "PixArt-Sigma-XL-2-512-MS": (
        ("PixArtSigmaPipeline", {"sample_size": 64}, {"_class_name": "DPMSolverMultistepScheduler"}),
        ("PixArt sigma", 512, 20, 4.5),
    ),
}
TRANSFORMERS = ("StableDiffusion3Pipeline", "FluxPipeline", "PixArtAlphaPipeline", "PixArtSigmaPipeline")


def write_repository(directory: Path, pipeline: str, denoiser: dict[str, Any], scheduler: dict[str, Any]) -> Path:
    """As the Hub's cache has it."""
    folder = "transformer" if pipeline in TRANSFORMERS else "unet"
    for name, content in {
        "model_index.json": {"_class_name": pipeline},
        f"{folder}/config.json": denoiser,
        "scheduler/scheduler_config.json": scheduler,
        "vae/config.json": {"block_out_channels": [128, 256, 512, 512]},
    }.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(json.dumps(content))
    return directory


@pytest.mark.parametrize("repository", REPOSITORIES)
def test_the_files_of_a_published_model_show_its_family_size_steps_and_guidance(tmp_path, repository):
    files, (family, side, steps, guidance) = REPOSITORIES[repository]
    directory = write_repository(tmp_path / f"models--owner--{repository}" / "snapshots" / "0a1b", *files)
    assert read_defaults(directory) == GenerationDefaults(
        width_pixels=side, height_pixels=side, steps=steps, guidance_scale=guidance, family=family
    )


def test_each_family_is_found_by_its_name_and_an_unknown_one_is_the_other():
    assert [get_family(family.name) for family in FAMILIES] == list(FAMILIES)
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    assert get_family("of another version") is OTHER
    assert find_family("SanaPipeline") is OTHER


def test_without_its_files_a_pipeline_class_is_the_family_that_nothing_was_distilled_from():
    names = {name: find_family(name).name for family in FAMILIES for name in family.pipelines}
    assert names["StableDiffusionPipeline"] == "Stable Diffusion"
    assert names["StableDiffusionXLPipeline"] == "Stable Diffusion XL"
    assert names["FluxPipeline"] == "Flux"
    assert names["StableDiffusion3Pipeline"] == "Stable Diffusion 3"


@pytest.mark.parametrize(
    ("rule", "steps", "strength", "taken"),
    [
        (StrengthRule.ROUND_DOWN, 10, 0.6, 6),
        (StrengthRule.ROUND_DOWN, 10, 0.58, 5),
        (StrengthRule.ROUND_DOWN, 100, 0.29, 28),  # 0.29 * 100 is 28.999… in floating point, as for the pipelines
        (StrengthRule.ROUND_DOWN, 10, 0.05, 0),
        (StrengthRule.ROUND_UP, 10, 0.6, 6),
        (StrengthRule.ROUND_UP, 10, 0.58, 6),
        (StrengthRule.ROUND_UP, 10, 0.05, 1),
        (StrengthRule.ALL, 4, 0.3, 4),
    ],
)
def test_strength_means_as_many_steps_as_the_familys_pipelines_take(rule, steps, strength, taken):
    assert rule.count_steps(steps, strength) == taken
    assert rule.count_steps(steps, 1.0) == steps


def context_of(family: str, **limits: int) -> FillContext:
    """A gateway's view of a model of this family."""
    known = get_family(family)
    side = known.default_side_pixels
    defaults = GenerationDefaults(side, side, known.steps, known.guidance_scale, family=family)
    return FillContext(ModelFacts(defaults=defaults), LimitsConfig(**limits), "a-job")


def refuse(context: FillContext, **given: Any) -> str:
    """Why a gateway refuses a request."""
    with pytest.raises(InvalidParametersError) as raised:
        fill_in({"prompt": "a cat", **given}, context)
    return str(raised.value)


def test_a_size_that_flux_would_cut_in_silence_is_refused_with_what_is_allowed():
    context = context_of("Flux", max_width_pixels=2048)
    assert refuse(context, width_pixels=520) == (
        "width_pixels: is 520 pixels, allowed is a multiple of 16 from 64 to 2048"
    )
    assert fill_in({"prompt": "a cat", "width_pixels": 528}, context).width_pixels == 528
    assert fill_in({"prompt": "a cat", "width_pixels": 520}, context_of("Stable Diffusion")).width_pixels == 520


def test_fewer_steps_than_a_pipeline_can_take_are_refused():
    assert refuse(context_of("PixArt alpha"), steps=1).startswith("steps: is 1, allowed are 2 to ")
    assert fill_in({"prompt": "a cat", "steps": 1}, context_of("PixArt sigma")).steps == 1


def test_a_default_size_beyond_the_limits_is_the_largest_that_the_model_can_have():
    filled = fill_in({"prompt": "a cat"}, context_of("Flux", max_width_pixels=1000, max_height_pixels=1024))
    assert (filled.width_pixels, filled.height_pixels) == (992, 1024)


def test_a_negative_prompt_that_a_pipeline_has_no_argument_for_is_refused():
    message = "negative_prompt: has 3 characters, but this model (LCM) takes none; leave it out"
    assert refuse(context_of("LCM"), negative_prompt="fur") == message
    assert fill_in({"prompt": "a cat", "negative_prompt": "fur"}, context_of("Flux schnell")).negative_prompt == "fur"


def test_a_strength_is_refused_where_the_familys_rule_leaves_no_step():
    inputs = InputImages(512, 512, {"image": b""})
    down, up = (
        FillContext(context_of(name).facts, LimitsConfig(), "a-job", inputs) for name in ("SDXL Turbo", "Flux schnell")
    )
    given = {"strength": 0.2, "width_pixels": 512, "height_pixels": 512}
    assert refuse(down, **given) == "strength: is 0.2, of 4 steps less than one; allowed are 0.25 to 1"
    assert fill_in({"prompt": "a cat", **given}, up).denoising_steps == 1


@pytest.mark.parametrize(
    ("family", "guidance", "negative", "sampler", "passes"),
    [
        ("Stable Diffusion XL", 5.0, "", None, 2),
        ("Stable Diffusion XL", 1.0, "fur", None, 1),
        ("SDXL Turbo", 0.0, "fur", None, 1),
        ("Stable Diffusion XL", 5.0, "", "Heun", 4),
        ("Stable Diffusion XL", 5.0, "", "DPM++ SDE Karras", 4),
        ("Flux", 3.5, "", None, 1),
        ("Flux", 3.5, "fur", None, 2),
        ("Flux schnell", 3.5, "fur", None, 1),
        ("LCM", 8.5, "", None, 1),
        ("Stable Diffusion 3", 7.0, "", "Euler", 2),
    ],
)
def test_a_step_costs_as_many_passes_as_the_family_and_the_sampler_take(family, guidance, negative, sampler, passes):
    parameters = build_parameters(family=family, guidance_scale=guidance, negative_prompt=negative, sampler=sampler)
    assert parameters.passes == passes


def test_which_family_it_is_makes_no_other_request_of_it():
    values = {
        "prompt": "a cat",
        "width_pixels": 512,
        "height_pixels": 512,
        "steps": 8,
        "guidance_scale": 3.0,
        "seed": 1,
    }
    one, other = (fill_in(values, context_of(name)) for name in ("Flux", "Stable Diffusion"))
    assert (one.family, other.family) == ("Flux", "Stable Diffusion")
    assert one.to_wire() == other.to_wire()
    assert one.to_wire() == other.to_wire()


def test_a_scale_of_its_own_is_given_exactly_where_a_negative_prompt_needs_one():
    scaled = {family.name for family in FAMILIES if family.true_guidance_scale is not None}
    assert scaled == {
        family.name for family in FAMILIES if family.negative_prompts is NegativePrompts.WITH_TRUE_GUIDANCE
    }


def test_a_family_with_controlnets_for_texts_alone_says_so_before_a_job_is_made() -> None:
    config = ControlNetConfig(name="canny", source="/weights/canny")
    known = replace(context_of("Stable Diffusion 3").facts, features=(Feature.CONTROL_NETS, Feature.HIRES))
    image = InputImages(64, 64, {"image": b"image"}, controls=(b"control",))
    context = FillContext(known, LimitsConfig(), "a-job", image, add_ons=AddOnsConfig(control_nets=(config,)))
    request = ControlRequest("canny", image.control_digests[0])
    with pytest.raises(InvalidParametersError, match="with this model ControlNets are for images from a text alone"):
        fill_in({"prompt": "a cat", "controls": (request,)}, context)
    text = replace(context, inputs=replace(image, images={}))
    hires = {"prompt": "a cat", "hires": HiresRequest(factor=1.5)}
    with pytest.raises(InvalidParametersError, match="no say there; ask for 'Low res only'"):
        fill_in(hires | {"controls": (request,)}, text)
    low = fill_in(hires | {"controls": (request._replace(passes=ControlPasses.FIRST),)}, text)
    assert (len(low.first_controls), low.second_controls) == (1, ())
