"""The fields of OpenAI's images API, and ours beside them. https://platform.openai.com/docs/api-reference/images"""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Final, Literal

from easel_contract.server_config import Priority
from pydantic import BaseModel, ConfigDict, Field

from easel_server.api.fields import ApiBody, MapsTo, WireInteger, WireNumber
from easel_server.gateway.refusals import refuse_field
from easel_server.generation.messages import truncate_repr
from easel_server.generation.parameters import ImageFormat

SIZE_PATTERN: Final = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")
AUTO: Final = "auto"
MAX_PARTIAL_IMAGES: Final = 3


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
    }

    prompt: Annotated[str, MapsTo("prompt")]
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
    quality: str | None = None
    style: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    moderation: str | None = None
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
    priority: Priority | None = Field(default=None, description="Which waiting jobs go first.")

    def given(self) -> dict[str, Any]:
        """As of any body, and ``size``, which is two parameters. Raises RefusalError for one that can't be read."""
        width, height = self.parse_size()
        size = {} if width is None else {"width_pixels": width, "height_pixels": height}
        return super().given() | size

    def parse_size(self) -> tuple[int, int] | tuple[None, None]:
        """Width and height in pixels, None where the choice is ours. Raises RefusalError if it can't be read."""
        if self.size is None or self.size == AUTO:
            return None, None
        match = SIZE_PATTERN.fullmatch(self.size)
        if match is None:
            allowed = '"WIDTHxHEIGHT" in pixels, such as "512x512", and "auto"'
            raise refuse_field("size", f"is {truncate_repr(self.size)}, allowed are {allowed}")
        return int(match[1]), int(match[2])


class EditFields(ImagesBody):
    """What an edit says besides its images."""

    input_fidelity: str | None = None  # accepted without effect, as ``quality`` is
    strength: Annotated[WireNumber | None, MapsTo("strength")] = Field(
        default=None, description="Share of the steps that are taken over the input image; 1 forgets it."
    )


class ImageReference(BaseModel):
    """An image in a JSON body."""

    model_config = ConfigDict(extra="forbid")

    image_url: str = Field(description="A data: URL; nothing is fetched.")


class EditBody(EditFields):
    """An edit as JSON."""

    images: Annotated[list[ImageReference], Field(min_length=1, max_length=1)]
    mask: ImageReference | None = None
