"""Decides what a request becomes: its parameters with defaults filled in and bounds checked. Pure."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from easel_contract.server_config import LimitsConfig

from easel_server.gateway.refusals import FieldFault, refuse_fields
from easel_server.generation.messages import truncate_repr
from easel_server.generation.models import GenerationDefaults, ModelFacts
from easel_server.generation.parameters import GenerationParameters, ImageFormat
from easel_server.generation.request import InputPictures
from easel_server.generation.tasks import Task

SIDE_STEP_PIXELS = 8  # the latent of every Stable Diffusion model is an eighth of the picture


MIN_SIDE_PIXELS = 64


MAX_GUIDANCE_SCALE = 100.0


SEED_BOUND = 2**63


IMAGE_TO_IMAGE_STRENGTH = 0.8


INPAINT_STRENGTH = 1.0


CHOSEN_SEED_BYTES = 4  # as most tools do: a seed that people can copy by hand


Number = TypeVar("Number", int, float)


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
    sampler: str
    image: str
    mask: str
    strength: str


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
    sampler: str | None = None
    pictures: InputPictures | None = None  # of the size that is asked for
    strength: float | None = None  # only with pictures
    is_prompt_needed: bool = True

    @property
    def task(self) -> Task:
        """What is to be made from what."""
        if self.pictures is None:
            return Task.TEXT_TO_IMAGE
        return Task.IMAGE_TO_IMAGE if self.pictures.mask is None else Task.INPAINT

    @property
    def inputs(self) -> dict[str, bytes]:
        """The pictures by their digests, as the broker takes them."""
        return self.pictures.by_digest() if self.pictures is not None else {}


def build_parameters(
    wanted: Wanted, *, facts: ModelFacts, limits: LimitsConfig, names: FieldNames, job_id: str
) -> GenerationParameters:
    """The parameters of a job. Raises RefusalError with every field that is out of bounds."""
    chosen = _choose(wanted, facts.defaults, limits, job_id)
    faults = [*_check(wanted, chosen, limits, names), *_check_model(wanted, facts, names)]
    if faults:
        raise refuse_fields(*faults)
    pictures = wanted.pictures
    return GenerationParameters(
        prompt=wanted.prompt,
        negative_prompt=wanted.negative_prompt,
        width_pixels=chosen.width_pixels,
        height_pixels=chosen.height_pixels,
        steps=chosen.steps,
        guidance_scale=chosen.guidance_scale,
        seed=chosen.seed,
        images=wanted.images,
        image_format=wanted.image_format,
        sampler=wanted.sampler,
        task=wanted.task,
        image_digest=pictures.image_digest if pictures else None,
        mask_digest=pictures.mask_digest if pictures else None,
        strength=choose_strength(wanted),
    )


@dataclass(frozen=True)
class _Chosen:
    """What a client may leave open, filled in."""

    width_pixels: int
    height_pixels: int
    steps: int
    guidance_scale: float
    seed: int


def _choose(wanted: Wanted, defaults: GenerationDefaults, limits: LimitsConfig, job_id: str) -> _Chosen:
    return _Chosen(
        _or(wanted.width_pixels, min(defaults.width_pixels, limits.max_width_pixels)),
        _or(wanted.height_pixels, min(defaults.height_pixels, limits.max_height_pixels)),
        _or(wanted.steps, min(defaults.steps, limits.max_steps)),
        _or(wanted.guidance_scale, defaults.guidance_scale),
        choose_seed(job_id) if wanted.seed is None else wanted.seed,
    )


def _or(value: Number | None, default: Number) -> Number:
    return default if value is None else value


def _check(wanted: Wanted, chosen: _Chosen, limits: LimitsConfig, names: FieldNames) -> Iterator[FieldFault]:
    longest = limits.max_prompt_characters
    yield from _check_text(names.prompt, wanted.prompt, int(wanted.is_prompt_needed), longest)
    yield from _check_text(names.negative_prompt, wanted.negative_prompt, 0, longest)
    yield from check_side(names.width, chosen.width_pixels, limits.max_width_pixels)
    yield from check_side(names.height, chosen.height_pixels, limits.max_height_pixels)
    yield from _check_range(names.steps, chosen.steps, 1, limits.max_steps)
    yield from _check_range(names.guidance_scale, chosen.guidance_scale, 0.0, MAX_GUIDANCE_SCALE)
    yield from _check_range(names.seed, chosen.seed, 0, SEED_BOUND - 1)
    yield from _check_range(names.images, wanted.images, 1, limits.max_images)
    yield from _check_strength(names.strength, wanted, chosen.steps)


def _check_model(wanted: Wanted, facts: ModelFacts, names: FieldNames) -> Iterator[FieldFault]:
    yield from _check_sampler(names.sampler, wanted.sampler, facts.samplers)
    yield from _check_task(names, wanted.task, facts.tasks)


def choose_strength(wanted: Wanted) -> float | None:
    """Share of the steps that are drawn over a picture: diffusers' own defaults if the client didn't say."""
    if wanted.task is Task.TEXT_TO_IMAGE or wanted.strength is not None:
        return wanted.strength
    return IMAGE_TO_IMAGE_STRENGTH if wanted.task is Task.IMAGE_TO_IMAGE else INPAINT_STRENGTH


def choose_seed(job_id: str) -> int:
    """A seed that looks random and follows from the job's id, so that a repeated submission is the same job."""
    return int.from_bytes(hashlib.sha256(job_id.encode()).digest()[:CHOSEN_SEED_BYTES], "big")


def _check_text(name: str, text: str, minimum: int, maximum: int) -> Iterator[FieldFault]:
    if not minimum <= len(text) <= maximum:
        yield FieldFault(name, f"has {len(text)} characters, allowed are {minimum} to {maximum}")


def check_side(name: str, pixels: int, maximum: int) -> Iterator[FieldFault]:
    """The fault of a width or height, if it has one."""
    if not MIN_SIDE_PIXELS <= pixels <= maximum or pixels % SIDE_STEP_PIXELS:
        allowed = f"a multiple of {SIDE_STEP_PIXELS} from {MIN_SIDE_PIXELS} to {maximum}"
        yield FieldFault(name, f"is {pixels} pixels, allowed is {allowed}")


def _check_range(name: str, value: float, minimum: float, maximum: float) -> Iterator[FieldFault]:
    if not minimum <= value <= maximum:  # NaN fails this too
        yield FieldFault(name, f"is {value}, allowed are {minimum} to {maximum}")


def _check_sampler(name: str, sampler: str | None, of_model: Sequence[str]) -> Iterator[FieldFault]:
    if sampler is not None and sampler not in of_model:
        yield FieldFault(name, f"is {truncate_repr(sampler)}, allowed are {', '.join(of_model)}")


def _check_task(names: FieldNames, task: Task, of_model: Sequence[Task]) -> Iterator[FieldFault]:
    if task not in of_model:
        name = {Task.TEXT_TO_IMAGE: names.prompt, Task.IMAGE_TO_IMAGE: names.image, Task.INPAINT: names.mask}[task]
        yield FieldFault(name, f"asks for {task}, which this model can't do; it can {', '.join(of_model)}")


def _check_strength(name: str, wanted: Wanted, steps: int) -> Iterator[FieldFault]:
    strength = choose_strength(wanted)
    if strength is None:
        return
    if wanted.pictures is None:
        yield FieldFault(name, f"is {strength}, which means nothing without a picture to begin with")
    elif not 0 < strength <= 1:
        yield FieldFault(name, f"is {strength}, allowed is more than 0 to 1")
    elif int(strength * steps) < 1:
        yield FieldFault(name, f"is {strength}, of {steps} steps less than one; allowed are {1 / steps:.3g} to 1")
