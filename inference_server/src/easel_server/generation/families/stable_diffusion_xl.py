"""Stable Diffusion XL, its refiner, and what was distilled from it.

Turbo: https://huggingface.co/stabilityai/sdxl-turbo. Refiner: https://huggingface.co/stabilityai/stable-diffusion-xl-refiner-1.0
"""

from dataclasses import replace
from typing import Final

from easel_server.generation.families.definition import DISTILLED_STEPS, Family, NegativePrompts
from easel_server.generation.families.stable_diffusion import has_guidance_embedding, is_consistent, is_distilled

STABLE_DIFFUSION_XL: Final = Family(
    name="Stable Diffusion XL",
    pipelines=frozenset({"StableDiffusionXLPipeline"}),
    guidance_scale=5.0,  # diffusers' own
    prompt_tokens=77,
    clip_layer=2,
)
TURBO: Final = replace(
    STABLE_DIFFUSION_XL,
    name="SDXL Turbo",
    is_sign=is_distilled,
    default_side_pixels=512,
    steps=DISTILLED_STEPS,
    guidance_scale=0.0,
)
WITH_LCM: Final = replace(
    STABLE_DIFFUSION_XL,
    name="Stable Diffusion XL with LCM",
    is_sign=lambda files: is_consistent(files) and not has_guidance_embedding(files),
    steps=DISTILLED_STEPS,
    guidance_scale=1.0,
)
GUIDANCE_EMBEDDED: Final = replace(
    STABLE_DIFFUSION_XL,
    name="Stable Diffusion XL with embedded guidance",
    is_sign=has_guidance_embedding,
    steps=DISTILLED_STEPS,
    guidance_scale=8.0,
    negative_prompts=NegativePrompts.WITHOUT_EFFECT,
)
REFINER: Final = Family(
    name="Stable Diffusion XL refiner",
    pipelines=frozenset({"StableDiffusionXLImg2ImgPipeline"}),
    guidance_scale=5.0,
    prompt_tokens=77,
    clip_layer=2,
)
FAMILIES: Final = (GUIDANCE_EMBEDDED, WITH_LCM, TURBO, STABLE_DIFFUSION_XL, REFINER)
