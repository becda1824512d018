"""The fields of OpenAI's images API, and ours beside them. https://platform.openai.com/docs/api-reference/images"""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Final, Literal

from easel_contract.gateway_config import Reproducibility
from easel_contract.server_config import Priority
from pydantic import BaseModel, ConfigDict, Field

from easel_server.api.controls import ControlsField
from easel_server.api.enlarging import HiresField
from easel_server.api.fields import (
    AdaptersField,
    ApiBody,
    Inert,
    MapsTo,
    PromptField,
    WireInteger,
    WireNumber,
    parse_size,
)
from easel_server.gateway.preprocessing.controls import ControlUnit
from easel_server.generation.parameters import ImageFormat

AUTO: Final = "auto"
MAX_PARTIAL_IMAGES: Final = 3
MAX_COMPRESSION: Final = 100  # percent: what OpenAI's clients send with a PNG, too


class ResponseFormat(StrEnum):
    """How images travel."""

    B64_JSON = "b64_json"
    URL = "url"


class ImagesBody(ApiBody):
    """The body of generations: what OpenAI's clients send, and our extensions."""

    COMPUTED: ClassVar[Mapping[str, str]] = {
        "width_pixels": "size",
        "height_pixels": "size",
        "image_digest": "image",
        "mask_digest": "mask",
        "strength": "strength",
        "controls": "controlnet",
    }

    prompt: PromptField = None
    model: str | None = None
    n: Annotated[WireInteger | None, MapsTo("images")] = None
    size: str | None = Field(default=None, description='"WIDTHxHEIGHT" in pixels, or "auto".')
    response_format: ResponseFormat | None = None
    output_format: Annotated[ImageFormat | None, MapsTo("image_format")] = None
    output_compression: Annotated[WireInteger | None, MapsTo("quality_percent")] = Field(
        default=None, description="Quality of jpeg and webp in percent: 0 to 100. Without effect on png."
    )
    stream: bool | None = Field(default=None, description="Answer with server-sent events.")
    partial_images: Annotated[int, Field(ge=0, le=MAX_PARTIAL_IMAGES)] | None = Field(
        default=None, description="Unfinished images in a stream."
    )
    # Accepted for the clients' sake, without effect: they choose among variants that one model doesn't have.
    quality: Annotated[str | None, Inert((AUTO, "standard", "medium"), "more steps are num_inference_steps")] = None
    style: Annotated[str | None, Inert(("vivid",), "say it in the prompt")] = None
    moderation: Annotated[str | None, Inert((AUTO, "low"), "this service chooses what becomes of images")] = None
    user: str | None = None
    safety_identifier: str | None = None
    # Accepted in the values that describe what this service does.
    background: Literal["auto", "opaque"] | None = None
    # Extensions.
    negative_prompt: Annotated[str | None, MapsTo("negative_prompt")] = None
    seed: Annotated[WireInteger | None, MapsTo("seed")] = None
    num_inference_steps: Annotated[WireInteger | None, MapsTo("steps")] = None
    guidance_scale: Annotated[WireNumber | None, MapsTo("guidance_scale")] = None
    sampler: Annotated[str | None, MapsTo("sampler")] = Field(
        default=None, description="A sampler's name, such as `DPM++ 2M Karras`."
    )
    loras: AdaptersField = None
    hires: HiresField = None
    clip_skip: Annotated[WireInteger | None, MapsTo("clip_skip")] = Field(
        default=None, description="Which layer of CLIP a prompt is taken from, counted from the last: 1 to 12."
    )
    eta: Annotated[WireNumber | None, MapsTo("eta")] = Field(
        default=None, description="How much chance is in each step of DDIM: 0 to 1."
    )
    reproducibility: Annotated[Reproducibility | None, MapsTo("reproducibility")] = Field(
        default=None, description="Close, or Exact: the same bytes whatever is generated beside it."
    )
    controlnet: ControlsField = None
    priority: Priority | None = Field(default=None, description="Which waiting jobs go first.")

    def find_warnings(self) -> Iterator[str]:
        """As of any body, and a quality of what has none."""
        yield from super().find_warnings()
        is_lossless = self.output_format in (None, ImageFormat.PNG)
        if is_lossless and self.output_compression not in (None, MAX_COMPRESSION):
            yield f"output_compression: {self.output_compression} is without effect; a png loses nothing"

    def given(self) -> dict[str, Any]:
        """As of any body, and ``size``, which is two parameters. Raises RefusalError for one that can't be read."""
        width, height = self.parse_size()
        size = {} if width is None else {"width_pixels": width, "height_pixels": height}
        return super().given() | size

    def list_controls(self) -> list[ControlUnit]:
        """Its ControlNets. Run it in ``Decoders``, since images are read. Raises RefusalError."""
        return [one.to_unit(f"controlnet[{number}]") for number, one in enumerate(self.controlnet or ())]

    def parse_size(self) -> tuple[int, int] | tuple[None, None]:
        """Width and height in pixels, None where the choice is ours. Raises RefusalError if it can't be read."""
        if self.size is None or self.size == AUTO:
            width, height = self.recipe_size
            return (width, height) if width is not None and height is not None else (None, None)
        return parse_size("size", self.size, others=', and "auto"')


class EditFields(ImagesBody):
    """What an edit says besides its images."""

    input_fidelity: Annotated[str | None, Inert(("low",), "strength says how much of the image is kept")] = None
    strength: Annotated[WireNumber | None, MapsTo("strength")] = Field(
        default=None, description="Share of the steps that are taken over the input image; 1 forgets it."
    )


class ImageReference(BaseModel):
    """An image in a JSON body."""

    model_config = ConfigDict(extra="forbid")

    image_url: str = Field(description="A data: URL, or an address on a host that the service allows.")


class EditBody(EditFields):
    """An edit as JSON."""

    images: Annotated[list[ImageReference], Field(min_length=1, max_length=1)]
    mask: ImageReference | None = None
