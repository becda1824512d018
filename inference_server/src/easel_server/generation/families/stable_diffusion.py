"""Stable Diffusion 1.x and 2.x, and what was distilled from them.

Turbo: https://huggingface.co/stabilityai/sd-turbo. Latent consistency: https://arxiv.org/abs/2310.04378
"""

from dataclasses import replace
from typing import Final

from easel_server.generation.families.definition import (
    DISTILLED_STEPS,
    Family,
    ModelFiles,
    NegativePrompts,
    StrengthRule,
)

TRAILING: Final = "trailing"  # timesteps end where noise is most, as few steps need it


def is_distilled(files: ModelFiles) -> bool:
    """Whether a model up to XL is made for a few steps without guidance: Turbo, Lightning, Hyper.

    Their schedulers take trailing timesteps and predict the noise. Models that predict velocity take trailing ones too,
    for the sake of zero terminal SNR (https://arxiv.org/abs/2305.08891), and all their steps.
    """
    scheduler = files.scheduler
    return scheduler.get("timestep_spacing") == TRAILING and scheduler.get("prediction_type", "epsilon") == "epsilon"


def is_consistent(files: ModelFiles) -> bool:
    """Whether a model up to XL is a latent consistency model that another pipeline runs."""
    return files.scheduler.get("_class_name") == "LCMScheduler"


def has_guidance_embedding(files: ModelFiles) -> bool:
    """Whether its UNet is told the guidance scale, and the pipeline takes no second pass for it."""
    return files.denoiser.get("time_cond_proj_dim") is not None


STABLE_DIFFUSION: Final = Family(
    name="Stable Diffusion",
    pipelines=frozenset({"StableDiffusionPipeline"}),
    default_side_pixels=512,
    prompt_tokens=77,
    clip_layer=1,
)
TURBO: Final = replace(
    STABLE_DIFFUSION, name="SD Turbo", is_sign=is_distilled, steps=DISTILLED_STEPS, guidance_scale=0.0
)
# Its weights hold what guidance does, so that more of it spoils the image.
WITH_LCM: Final = replace(
    STABLE_DIFFUSION,
    name="Stable Diffusion with LCM",
    is_sign=lambda files: is_consistent(files) and not has_guidance_embedding(files),
    steps=DISTILLED_STEPS,
    guidance_scale=1.0,
)
GUIDANCE_EMBEDDED: Final = replace(
    STABLE_DIFFUSION,
    name="Stable Diffusion with embedded guidance",
    is_sign=has_guidance_embedding,
    steps=DISTILLED_STEPS,
    guidance_scale=8.5,
    negative_prompts=NegativePrompts.WITHOUT_EFFECT,
)
LCM: Final = Family(
    name="LCM",
    pipelines=frozenset({"LatentConsistencyModelPipeline"}),
    default_side_pixels=768,
    steps=DISTILLED_STEPS,
    guidance_scale=8.5,  # diffusers' own
    negative_prompts=NegativePrompts.REFUSED,
    strength_rule=StrengthRule.ALL,
    sampler_names=frozenset({"LCM"}),  # the pipeline sets timesteps as no other scheduler can
    prompt_tokens=77,
    clip_layer=1,
)
FAMILIES: Final = (GUIDANCE_EMBEDDED, WITH_LCM, TURBO, STABLE_DIFFUSION, LCM)
