"""What a request asks for beside the model: adapters, ControlNets, a second pass, upscaling. Values only."""

from enum import StrEnum
from typing import Final, NamedTuple

from easel_contract.add_ons import MAX_WEIGHT
from easel_contract.schema import Model
from pydantic import Field

MAX_UPSCALE_FACTOR: Final = 8.0


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


class ControlUse(Model):
    """A ControlNet as a job has it. Its image, as the network takes it, travels beside the job."""

    name: str
    key: str = ""  # as an adapter's
    image_digest: str
    weight: float = Field(default=1.0, ge=0.0, le=MAX_WEIGHT, allow_inf_nan=False)
    start: float = Field(default=0.0, ge=0.0, le=1.0)  # shares of the steps between which it has a say
    end: float = Field(default=1.0, ge=0.0, le=1.0)
    mode: ControlMode = ControlMode.BALANCED


class HiresPass(Model):
    """A second pass over the enlarged image ("hires fix"); the image is of this size then."""

    width_pixels: int = Field(ge=8)
    height_pixels: int = Field(ge=8)
    upscaler: str  # a latent mode's name, or a configured upscaler's
    key: str = ""  # of that one's configuration; empty for latent modes
    steps: int | None = Field(default=None, ge=1)  # None: as many as the first
    strength: float = Field(default=0.7, gt=0.0, le=1.0)


class Upscaling(Model):
    """What enlarges an image that is there."""

    upscaler: str
    key: str = ""
    factor: float = Field(gt=1.0, le=MAX_UPSCALE_FACTOR)
