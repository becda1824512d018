"""What a request asks for beside the model: adapters, ControlNets, a second pass, upscaling. Values only."""

import math
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple

from easel_contract.add_ons import MAX_WEIGHT
from easel_contract.schema import Model
from pydantic import Field

MAX_UPSCALE_FACTOR: Final = 8.0
MAX_UPSCALED_SIDE_PIXELS: Final = 8192  # WebP has no more than 16,383
UPSCALE_STEPS: Final = 20  # what the progress of a job is counted in that only enlarges

# How latents are enlarged, by AUTOMATIC1111's names: torch's mode, and whether it is smoothed beforehand.
LATENT_MODES: Final[Mapping[str, tuple[str, bool]]] = MappingProxyType(
    {
        "Latent": ("bilinear", False),
        "Latent (antialiased)": ("bilinear", True),
        "Latent (bicubic)": ("bicubic", False),
        "Latent (bicubic antialiased)": ("bicubic", True),
        "Latent (nearest)": ("nearest", False),
        "Latent (nearest-exact)": ("nearest-exact", False),
    }
)
NO_UPSCALER: Final = "None"  # Lanczos, where another size is asked for
LANCZOS: Final = "Lanczos"
NEAREST: Final = "Nearest"
PIXEL_MODES: Final = (NO_UPSCALER, LANCZOS, NEAREST)  # of images, without weights
DEFAULT_HIRES_STRENGTH: Final = 0.7
DEFAULT_FACTOR: Final = 2.0
ROUNDING: Final = 1e-6  # a side times a factor isn't always whole in floating point


class Feature(StrEnum):
    """What some models can do and others can't."""

    ADAPTERS = "Adapters"
    CONTROL_NETS = "ControlNets"
    HIRES = "Hires"
    UPSCALE = "Upscale"
    CLIP_SKIP = "ClipSkip"
    LONG_PROMPTS = "LongPrompts"  # past the text encoder's window, and with weights


class AdapterRequest(NamedTuple):
    """An adapter as a client asks for it."""

    name: str
    weight: float | None = None  # None: its own default


class AdapterUse(Model):
    """An adapter as a job has it."""

    name: str
    weight: float = Field(ge=-MAX_WEIGHT, le=MAX_WEIGHT, allow_inf_nan=False)
    key: str = ""  # of its configuration: which weights the name stood for


class ControlMode(StrEnum):
    """What counts for more, by the names of AUTOMATIC1111's extension."""

    BALANCED = "Balanced"
    PROMPT = "My prompt is more important"
    CONTROL = "ControlNet is more important"


class ControlPasses(StrEnum):
    """In which passes of a job with two a ControlNet has a say, by the names of AUTOMATIC1111's extension."""

    BOTH = "Both"
    FIRST = "Low res only"
    SECOND = "High res only"


class ControlType(StrEnum):
    """Kinds of control images, which a union ControlNet tells apart, by the names of AUTOMATIC1111's extension."""

    POSE = "OpenPose"
    DEPTH = "Depth"
    SOFT_EDGE = "Soft Edge"
    HARD_EDGE = "Hard Edge"
    NORMAL = "Normal Map"
    SEGMENTATION = "Segmentation"
    # Those that it has no name for
    TILE = "Tile"
    INPAINT = "Inpaint"
    BLUR = "Blur"
    GREY = "Grey"
    LOW_QUALITY = "Low Quality"


class ControlRequest(NamedTuple):
    """A ControlNet as a client asks for it; its image as the network takes it."""

    name: str
    image_digest: str
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    mode: ControlMode = ControlMode.BALANCED
    passes: ControlPasses = ControlPasses.BOTH
    control_type: ControlType | None = None
    made_type: ControlType | None = None  # what its preprocessor makes, where the client doesn't say
    preprocessor: str = ""  # a configured one, which makes its control image of the image that is sent


class ControlUse(Model):
    """A ControlNet as a job has it. Its image, as the network takes it, travels beside the job."""

    name: str
    key: str = ""  # as an adapter's
    image_digest: str
    weight: float = Field(default=1.0, ge=0.0, le=MAX_WEIGHT, allow_inf_nan=False)
    start: float = Field(default=0.0, ge=0.0, le=1.0)  # shares of the steps between which it has a say
    end: float = Field(default=1.0, ge=0.0, le=1.0)
    mode: ControlMode = ControlMode.BALANCED
    # Both, where there is one only
    passes: ControlPasses = Field(default=ControlPasses.BOTH, exclude_if=lambda value: value is ControlPasses.BOTH)
    # Of its image, for a union network; others are for one kind
    control_type: ControlType | None = Field(default=None, exclude_if=lambda value: value is None)
    preprocessor: str = Field(default="", exclude_if=lambda value: not value)  # a configured one, of the image
    preprocessor_key: str = Field(default="", exclude_if=lambda value: not value)

    @property
    def keys(self) -> tuple[str, ...]:
        """Of the configured ones that it uses."""
        return (self.key, self.preprocessor_key) if self.preprocessor_key else (self.key,)


class HiresRequest(NamedTuple):
    """A second pass as a client asks for it; None: the service's choice."""

    width_pixels: int | None = None  # one side alone: in the first pass's proportions; both: what is too much is cut
    height_pixels: int | None = None
    factor: float | None = None  # where no side is given
    upscaler: str | None = None
    steps: int | None = None
    strength: float | None = None


class HiresPass(Model):
    """A second pass over the enlarged image ("hires fix"); the image is of this size then.

    It is enlarged until it covers the size, and what is too much is cut off at both ends.
    """

    width_pixels: int = Field(ge=8)
    height_pixels: int = Field(ge=8)
    upscaler: str  # one of LATENT_MODES or PIXEL_MODES, or a configured one's name
    key: str = ""  # of that one's configuration; empty for modes
    steps: int | None = Field(default=None, ge=1)  # None: as many as the first
    strength: float = Field(default=DEFAULT_HIRES_STRENGTH, gt=0.0, le=1.0)

    @property
    def keys(self) -> tuple[str, ...]:
        """Of the configured ones that it uses."""
        return (self.key,) if self.key else ()


class UpscalingRequest(NamedTuple):
    """What enlarges an image that is there, as a client asks for it."""

    factor: float | None = None  # None: as the sides say
    width_pixels: int | None = None
    height_pixels: int | None = None
    is_cropped: bool = True  # to the sides exactly; else the image covers them in its own proportions
    upscaler: str | None = None
    second: str | None = None
    second_share: float = 0.0


class Upscaling(Model):
    """What enlarges an image that is there. It covers the size; what is too much is cut off at both ends."""

    upscaler: str  # one of PIXEL_MODES, or a configured one's name
    key: str = ""
    width_pixels: int = Field(ge=1)  # of the result
    height_pixels: int = Field(ge=1)
    second: str | None = Field(default=None, exclude_if=lambda value: value is None)  # blended over the first
    second_key: str = Field(default="", exclude_if=lambda value: not value)
    second_share: float = Field(default=0.0, ge=0.0, le=1.0, exclude_if=lambda value: not value)

    @property
    def keys(self) -> tuple[str, ...]:
        """Of the configured ones that it uses."""
        return tuple(key for key in (self.key, self.second_key) if key)


def find_cover(size: tuple[int, int], wanted: tuple[int, int]) -> tuple[int, int]:
    """The least size in the proportions of ``size`` that covers what is wanted; sides in any unit.

    As AUTOMATIC1111 rounds it: down, and never below what is wanted.
    """
    if size[0] * wanted[1] <= wanted[0] * size[1]:
        return wanted[0], max(wanted[1], wanted[0] * size[1] // size[0])
    return max(wanted[0], wanted[1] * size[0] // size[1]), wanted[1]


def find_upscaled_size(size: tuple[int, int], asked: UpscalingRequest) -> tuple[int, int]:
    """Width and height of the result in pixels."""
    width, height = asked.width_pixels or 0, asked.height_pixels or 0
    if asked.is_cropped and width and height:
        return width, height
    if width or height:
        factor = max(width / size[0], height / size[1])
    else:
        factor = DEFAULT_FACTOR if asked.factor is None else asked.factor
    return math.floor(size[0] * factor + ROUNDING), math.floor(size[1] * factor + ROUNDING)


def find_hires_size(size: tuple[int, int], asked: HiresRequest, step_pixels: int) -> tuple[int, int]:
    """Width and height of a second pass in pixels, multiples of ``step_pixels`` unless both sides are asked for.

    ``size``, the first pass's, may be beyond its bounds, which is for its own check to name.
    """
    size = max(1, size[0]), max(1, size[1])
    width, height = asked.width_pixels or 0, asked.height_pixels or 0
    if width and height:
        return width, height
    if width or height:
        width, height = width or height * size[0] // size[1], height or width * size[1] // size[0]
    else:
        factor = DEFAULT_FACTOR if asked.factor is None else asked.factor
        width, height = (math.floor(side * factor + ROUNDING) for side in size)
    return width // step_pixels * step_pixels, height // step_pixels * step_pixels
