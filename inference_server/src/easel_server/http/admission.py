"""Decides what a request becomes: its parameters with defaults filled in and bounds checked. Pure."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from easel_contract.server_config import LimitsConfig

from easel_server.generation_defaults import GenerationDefaults
from easel_server.http.refusals import FieldFault, refuse_fields
from easel_server.job import GenerationParameters, ImageFormat

SIDE_STEP_PIXELS = 8  # the latent of every Stable Diffusion model is an eighth of the picture
MINIMUM_SIDE_PIXELS = 64
MAXIMUM_GUIDANCE_SCALE = 100.0
SEED_BOUND = 2**63
CHOSEN_SEED_BYTES = 4  # as most tools do: a seed that people can copy by hand


@dataclass(frozen=True)
class FieldNames:
    """What an API calls the fields, for messages that its users understand."""

    prompt: str
    negative_prompt: str
    width: str
    height: str
    steps: str
    guidance_scale: str
    seed: str
    images: str


@dataclass(frozen=True)
class Wanted:
    """What a client asked for; None where it left the choice to us."""

    prompt: str
    negative_prompt: str = ""
    width_pixels: int | None = None
    height_pixels: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    seed: int | None = None
    images: int = 1
    image_format: ImageFormat = ImageFormat.PNG


def build_parameters(
    wanted: Wanted, *, defaults: GenerationDefaults, limits: LimitsConfig, names: FieldNames, job_id: str
) -> GenerationParameters:
    """The parameters of a job. Raises RefusalError with every field that is out of bounds."""
    width = wanted.width_pixels
    if width is None:
        width = min(defaults.width_pixels, limits.max_width_pixels)
    height = wanted.height_pixels
    if height is None:
        height = min(defaults.height_pixels, limits.max_height_pixels)
    steps = wanted.steps if wanted.steps is not None else min(defaults.steps, limits.max_steps)
    guidance = wanted.guidance_scale if wanted.guidance_scale is not None else defaults.guidance_scale
    seed = wanted.seed if wanted.seed is not None else choose_seed(job_id)
    faults = [
        *_check_text(names.prompt, wanted.prompt, 1, limits.max_prompt_characters),
        *_check_text(names.negative_prompt, wanted.negative_prompt, 0, limits.max_prompt_characters),
        *_check_side(names.width, width, limits.max_width_pixels),
        *_check_side(names.height, height, limits.max_height_pixels),
        *_check_range(names.steps, steps, 1, limits.max_steps),
        *_check_range(names.guidance_scale, guidance, 0.0, MAXIMUM_GUIDANCE_SCALE),
        *_check_range(names.seed, seed, 0, SEED_BOUND - 1),
        *_check_range(names.images, wanted.images, 1, limits.max_images),
    ]
    if faults:
        raise refuse_fields(*faults)
    return GenerationParameters(
        prompt=wanted.prompt,
        negative_prompt=wanted.negative_prompt,
        width_pixels=width,
        height_pixels=height,
        steps=steps,
        guidance_scale=guidance,
        seed=seed,
        images=wanted.images,
        image_format=wanted.image_format,
    )


def choose_seed(job_id: str) -> int:
    """A seed that looks random and follows from the job's id, so that a repeated submission is the same job."""
    return int.from_bytes(hashlib.sha256(job_id.encode()).digest()[:CHOSEN_SEED_BYTES], "big")


def _check_text(name: str, text: str, minimum: int, maximum: int) -> Iterator[FieldFault]:
    if not minimum <= len(text) <= maximum:
        yield FieldFault(name, f"has {len(text)} characters, allowed are {minimum} to {maximum}")


def _check_side(name: str, pixels: int, maximum: int) -> Iterator[FieldFault]:
    if not MINIMUM_SIDE_PIXELS <= pixels <= maximum or pixels % SIDE_STEP_PIXELS:
        allowed = f"a multiple of {SIDE_STEP_PIXELS} from {MINIMUM_SIDE_PIXELS} to {maximum}"
        yield FieldFault(name, f"is {pixels} pixels, allowed is {allowed}")


def _check_range(name: str, value: float, minimum: float, maximum: float) -> Iterator[FieldFault]:
    if not minimum <= value <= maximum:  # NaN fails this too
        yield FieldFault(name, f"is {value}, allowed are {minimum} to {maximum}")
