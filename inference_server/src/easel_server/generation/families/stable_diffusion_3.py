"""Stable Diffusion 3 and 3.5: https://huggingface.co/stabilityai/stable-diffusion-3.5-medium

The distilled one has the same configuration as its teacher, so it is known by its name only.
"""

from dataclasses import replace
from typing import Final

from easel_server.generation.families.definition import DISTILLED_STEPS, Family, StrengthRule

STABLE_DIFFUSION_3: Final = Family(
    name="Stable Diffusion 3",
    pipelines=frozenset({"StableDiffusion3Pipeline"}),
    size_step_pixels=16,  # the autoencoder's eighth, in patches of two
    steps=28,  # diffusers' own
    guidance_scale=7.0,  # diffusers' own
    strength_rule=StrengthRule.ROUND_UP,
    sampler_names=frozenset({"Euler", "Euler Karras", "Euler Exponential", "Euler Beta", "DPM++ 2M", "UniPC", "Heun"}),
    prompt_tokens=256,
    clip_layer=2,
    long_prompt_tokens=512,  # the most that diffusers' pipelines let it have
    latent_channels=16,
    is_controlled_from_text_only=True,
)
TURBO: Final = replace(
    STABLE_DIFFUSION_3,
    name="Stable Diffusion 3 Turbo",
    is_sign=lambda files: "turbo" in files.names,
    steps=DISTILLED_STEPS,
    guidance_scale=0.0,
)
FAMILIES: Final = (TURBO, STABLE_DIFFUSION_3)
