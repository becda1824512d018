"""What determines an image: the parameters that a job carries, and what holds for any value of them.

A new parameter is a field of ``GenerationParameters``, a row of ``PARAMETERS`` (``filling/table.py``), and a field in
each API that offers it (``api/NAME/fields.py``). Pure; no API's names, no torch.
"""

import hashlib
from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import Final, Self

from easel_contract.add_ons import AddOnConfig, AddOnsConfig
from easel_contract.gateway_config import Reproducibility
from easel_contract.schema import Model
from pydantic import Field, model_validator

from easel_server.generation.add_ons import AdapterUse, ControlPasses, ControlUse, HiresPass, Upscaling
from easel_server.generation.families import Family, get_family
from easel_server.generation.samplers import SAMPLERS
from easel_server.generation.tasks import TASKS, Task

SIDE_STEP_PIXELS: Final = 8  # of any model: latents are an eighth of the image; some families need more
MIN_SIDE_PIXELS: Final = 64
MAX_GUIDANCE_SCALE: Final = 100.0
SEED_BOUND: Final = 2**63
DEFAULT_QUALITY_PERCENT: Final = 95  # of JPEG and WebP; PNG loses nothing
MAX_CLIP_SKIP: Final = 12  # layers that the smallest of these encoders has
CHOSEN_SEED_BYTES: Final = 4  # as most tools do: a seed that people can copy by hand


class ImageFormat(StrEnum):
    """Encoding of the images that a job returns."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"


class GenerationParameters(Model):
    """Everything that determines the pixels, with defaults filled in.

    ``seed`` is set by the gateway when the client gave none, so that a retried job generates the same image. Image
    number i of ``images`` uses seed + i. Input images are named by their SHA-256 (hexadecimal); their bytes, a PNG of
    exactly ``width_pixels`` x ``height_pixels``, travel beside the job.
    """

    prompt: str
    negative_prompt: str = ""
    width_pixels: int = Field(ge=1)  # of what is generated first; to enlarge an image: its own
    height_pixels: int = Field(ge=1)
    steps: int = Field(ge=1)
    guidance_scale: float = Field(ge=0.0, allow_inf_nan=False)
    seed: int = Field(ge=0, lt=SEED_BOUND)
    images: int = Field(default=1, ge=1)
    image_format: ImageFormat = ImageFormat.PNG
    quality_percent: int | None = Field(default=None, ge=0, le=100)  # of a format that has one; None: the default
    sampler: str | None = None  # a name of ``samplers.py``; None: the model's own
    task: Task = Task.TEXT_TO_IMAGE
    image_digest: str | None = None  # the image to begin with: RGB
    mask_digest: str | None = None  # where to generate anew: L, 255 is replaced
    # Share of the steps that are taken; 1 forgets the input image.
    strength: float | None = Field(default=None, ge=0.0, le=1.0)
    # Left out where it is Close, so that processes of the version before, which don't know it, read what is asked so.
    reproducibility: Reproducibility = Field(
        default=Reproducibility.CLOSE, exclude_if=lambda value: value is Reproducibility.CLOSE
    )
    # Left out likewise: jobs without them are the same in both versions. Of chance, the sampler takes its own share
    # where ``eta`` is None.
    adapters: tuple[AdapterUse, ...] = Field(default=(), exclude_if=lambda value: not value)  # by name
    controls: tuple[ControlUse, ...] = Field(default=(), exclude_if=lambda value: not value)  # in the order asked for
    hires: HiresPass | None = Field(default=None, exclude_if=lambda value: value is None)
    upscale: Upscaling | None = Field(default=None, exclude_if=lambda value: value is None)
    clip_skip: int | None = Field(default=None, ge=1, exclude_if=lambda value: value is None)  # 1: all layers are used
    eta: float | None = Field(default=None, ge=0.0, le=1.0, exclude_if=lambda value: value is None)
    # Of the model, a name in ``families/``: what the request costs. Which model it is, others say. Stored beside: it is
    # nothing that was asked for, and processes of the version before refuse what they don't know.
    family: str = Field(default="", exclude=True)

    @model_validator(mode="after")
    def _check_sides(self) -> Self:
        step = SIDE_STEP_PIXELS
        if self.upscale is None and (self.width_pixels % step or self.height_pixels % step):
            raise ValueError(f"{self.width_pixels}x{self.height_pixels} pixels: sides are multiples of {step}")
        return self

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height in pixels of the images that the job gives, the largest that it works on."""
        larger = self.hires or self.upscale or self
        return larger.width_pixels, larger.height_pixels

    @property
    def traits(self) -> Family:
        """What is so for the family of the model that the request was filled in for."""
        return get_family(self.family)

    @property
    def passes(self) -> int:
        """Evaluations of the denoiser a step: guidance needs a second one, and so does a sampler's midpoint."""
        sampler = SAMPLERS.get(self.sampler or "")
        evaluations = sampler.evaluations if sampler is not None else 1
        return evaluations * self.traits.count_passes(self.guidance_scale, self.negative_prompt)

    @property
    def denoising_steps(self) -> int:
        """Steps that are really taken: the last ``strength`` of them, at least one, by a task that knows strength."""
        if self.strength is None or TASKS[self.task].default_strength is None:
            return self.steps
        return max(1, self.traits.strength_rule.count_steps(self.steps, self.strength))

    @property
    def hires_steps(self) -> int:
        """Steps that the second pass really takes; 0 without one."""
        if self.hires is None:
            return 0
        return max(1, self.traits.strength_rule.count_steps(self.hires.steps or self.steps, self.hires.strength))

    @property
    def first_controls(self) -> tuple[ControlUse, ...]:
        """The ControlNets of the first pass, or the only one."""
        return tuple(use for use in self.controls if self.hires is None or use.passes is not ControlPasses.SECOND)

    @property
    def second_controls(self) -> tuple[ControlUse, ...]:
        """The ControlNets of the second pass; none without one."""
        return tuple(use for use in self.controls if self.hires is not None and use.passes is not ControlPasses.FIRST)

    @property
    def batch_key(self) -> str:
        """Equal for jobs that can share steps: those of one size, the largest, whatever else they ask for."""
        width, height = self.image_size
        return f"{width}x{height}"


def check_side(pixels: int, max_pixels: int, step_pixels: int) -> str | None:
    """What is wrong with a width or height, for a model whose sides are multiples of ``step_pixels``."""
    if MIN_SIDE_PIXELS <= pixels <= max_pixels and pixels % step_pixels == 0:
        return None
    return f"is {pixels} pixels, allowed is a multiple of {step_pixels} from {MIN_SIDE_PIXELS} to {max_pixels}"


def bound_side(pixels: int, max_pixels: int, step_pixels: int) -> int:
    """A model's own side, where it is larger than is allowed the largest that fits."""
    return pixels if pixels <= max_pixels else max_pixels // step_pixels * step_pixels


def choose_seed(text: str) -> int:
    """A seed that looks random and follows from a text (a job's id), so that a repeated submission is the same job."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:CHOSEN_SEED_BYTES], "big")


def list_add_ons(parameters: GenerationParameters, offered: AddOnsConfig) -> tuple[AddOnConfig, ...]:
    """Of what a service offers, that which a job uses: of each kind, and by its name, as one file may have several."""
    hires, upscale = parameters.hires, parameters.upscale
    networks = [(hires.upscaler, hires.key)] if hires is not None else []
    if upscale is not None:
        networks += [(upscale.upscaler, upscale.key), (upscale.second or "", upscale.second_key)]
    of_kinds: tuple[tuple[Sequence[AddOnConfig], Collection[tuple[str, str]]], ...] = (
        (offered.adapters, {(use.name, use.key) for use in parameters.adapters}),
        (offered.control_nets, {(use.name, use.key) for use in parameters.controls}),
        (offered.upscalers, networks),
        (offered.preprocessors, {(use.preprocessor, use.preprocessor_key) for use in parameters.controls}),
    )
    return tuple(each for known, used in of_kinds for each in known if (each.name, each.key) in used)
