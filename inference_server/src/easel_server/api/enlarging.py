"""A second pass and upscaling as fields that APIs share, and the image that is only enlarged, as a worker takes it."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from easel_contract.gateway_config import LimitsConfig
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from easel_server.api.fields import MapsTo, WireInteger, WireNumber, parse_json_text
from easel_server.gateway.input_images import Fit, build_input_images, decode_image
from easel_server.gateway.refusals import refuse_field
from easel_server.generation.add_ons import MAX_UPSCALE_FACTOR, HiresRequest, UpscalingRequest
from easel_server.generation.parameters import GenerationParameters
from easel_server.generation.request import InputImages

FactorField = Annotated[WireNumber | None, Field(gt=0, le=MAX_UPSCALE_FACTOR)]
UPSCALER_DESCRIPTION: Final = "One of /v1/models' upscalers, None, Lanczos or Nearest."


class HiresBody(BaseModel):
    """A second pass of a request; what isn't said is the service's choice."""

    model_config = ConfigDict(extra="forbid")

    scale: FactorField = Field(default=None, description="Times the first pass's sides: 2 where no side is given.")
    width: WireInteger | None = Field(default=None, ge=1, description="In pixels; one side alone keeps proportions.")
    height: WireInteger | None = Field(default=None, ge=1)
    upscaler: str | None = Field(default=None, description=f"{UPSCALER_DESCRIPTION} Or a latent mode, as Latent.")
    strength: WireNumber | None = Field(default=None, description="Share of the steps that are taken again.")
    steps: WireInteger | None = Field(default=None, ge=1, description="Without: as many as the first pass.")


def _to_hires(body: HiresBody) -> HiresRequest:
    return HiresRequest(
        width_pixels=body.width,
        height_pixels=body.height,
        factor=body.scale,
        upscaler=body.upscaler,
        steps=body.steps,
        strength=body.strength,
    )


def _echo_hires(parameters: GenerationParameters) -> dict[str, Any] | None:
    hires = parameters.hires
    if hires is None:
        return None
    echoed = HiresBody(
        width=hires.width_pixels,
        height=hires.height_pixels,
        upscaler=hires.upscaler,
        strength=hires.strength,
        steps=hires.steps,
    )
    return echoed.model_dump(exclude_none=True)


HiresField = Annotated[
    HiresBody | None,
    BeforeValidator(parse_json_text),
    MapsTo("hires", convert=_to_hires, echo=_echo_hires),
    Field(description='A second pass over the enlarged image ("hires fix"), such as {"scale": 2}.'),
]


# Of what a body says, that which an image has that is only enlarged.
UPSCALING_PARAMETERS: Final = ("upscale", "image_format", "quality_percent", "reproducibility")


def choose_upscaling(given: Mapping[str, Any], asked: UpscalingRequest | None) -> dict[str, Any]:
    """What enlarges, by the names of ``GenerationParameters``; ``asked`` goes before what a recipe said."""
    kept = {name: given[name] for name in UPSCALING_PARAMETERS if name in given}
    return kept | ({} if asked is None else {"upscale": asked})


def echo_factor(parameters: GenerationParameters) -> float | None:
    """By how much an image was enlarged, from its width; None for one that wasn't."""
    upscale = parameters.upscale
    return None if upscale is None else round(upscale.width_pixels / parameters.width_pixels, 4)


def echo_upscaler(parameters: GenerationParameters) -> str | None:
    """What enlarged an image; None for one that wasn't."""
    return None if parameters.upscale is None else parameters.upscale.upscaler


def build_enlarge_inputs(field: str, original: bytes, limits: LimitsConfig) -> InputImages:
    """An encoded image in its own size. Takes time: run it in ``Decoders``. Raises RefusalError."""
    decoded = decode_image(field, original, max_pixels=limits.max_input_pixels)
    if decoded.width * decoded.height > limits.max_upscaled_pixels:
        size = f"{decoded.width}x{decoded.height}"
        raise refuse_field(field, f"has {size} pixels, at most {limits.max_upscaled_pixels} are enlarged")
    return build_input_images({"image": decoded}, decoded.size, Fit.STRETCH, original=original)
