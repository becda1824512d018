"""Flux: https://github.com/black-forest-labs/flux

Dev is told the guidance scale as an embedding, so a negative prompt needs a second pass with a scale of its own;
schnell was distilled without either.
"""

from dataclasses import replace
from typing import Final

from easel_server.generation.families.definition import DISTILLED_STEPS, Family, NegativePrompts, StrengthRule

DEV: Final = Family(
    name="Flux",
    pipelines=frozenset({"FluxPipeline"}),
    size_step_pixels=16,  # the autoencoder's eighth, packed two by two
    steps=28,  # diffusers' own
    guidance_scale=3.5,  # diffusers' own
    negative_prompts=NegativePrompts.WITH_TRUE_GUIDANCE,
    true_guidance_scale=2.0,  # on top of the embedded one, much more burns the colours
    strength_rule=StrengthRule.ROUND_UP,
    sampler_names=frozenset({"Euler", "Euler Karras", "Euler Exponential", "Euler Beta", "DPM++ 2M", "UniPC"}),
    prompt_tokens=512,
    latent_channels=16,
    are_latents_packed=True,
)
SCHNELL: Final = replace(
    DEV,
    name="Flux schnell",
    is_sign=lambda files: files.denoiser.get("guidance_embeds") is False,
    steps=DISTILLED_STEPS,
    guidance_scale=0.0,
    is_guided=False,
    negative_prompts=NegativePrompts.WITHOUT_EFFECT,
    true_guidance_scale=None,
)
FAMILIES: Final = (SCHNELL, DEV)
