"""OpenAI's images as they travel: request bodies, answers and events. Extensions are extra body fields. Pure.

https://platform.openai.com/docs/api-reference/images
"""

import base64
import re
from enum import StrEnum
from typing import Annotated, Any, Literal

from easel_contract.server_config import Priority
from pydantic import BaseModel, ConfigDict, Field

from easel_server.gateway.admission import FieldNames, Wanted
from easel_server.gateway.input_images import WantedSize
from easel_server.gateway.refusals import refuse_field
from easel_server.generation.job import Job
from easel_server.generation.messages import truncate_repr
from easel_server.generation.parameters import ImageFormat
from easel_server.generation.request import InputPictures
from easel_server.transport.bodies import WireInteger, WireNumber

SIZE_PATTERN = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")


AUTO = "auto"


MAX_PARTIAL_IMAGES = 3


NO_TOKENS = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}


NAMES = FieldNames(
    prompt="prompt",
    negative_prompt="negative_prompt",
    width="size",
    height="size",
    steps="num_inference_steps",
    guidance_scale="guidance_scale",
    seed="seed",
    images="n",
    sampler="sampler",
    image="image",
    mask="mask",
    strength="strength",
)


class ResponseFormat(StrEnum):
    """How images travel."""

    B64_JSON = "b64_json"
    URL = "url"


class EventFamily(StrEnum):
    """What the names of a stream's events begin with."""

    GENERATION = "image_generation"
    EDIT = "image_edit"


class ImagesBody(BaseModel):
    """What OpenAI's clients send, and our extensions. Unknown fields are refused, so that a typo is noticed."""

    model_config = ConfigDict(extra="forbid")

    prompt: str
    model: str | None = None
    n: WireInteger | None = None
    size: str | None = Field(default=None, description='"WIDTHxHEIGHT" in pixels, or "auto".')
    response_format: ResponseFormat | None = None
    output_format: ImageFormat | None = None
    stream: bool | None = Field(default=None, description="Answer with server-sent events.")
    partial_images: Annotated[int, Field(ge=0, le=MAX_PARTIAL_IMAGES)] | None = Field(
        default=None, description="Unfinished pictures in a stream."
    )
    # Accepted for the clients' sake, without effect: they choose among variants that one model doesn't have.
    quality: str | None = None
    style: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    moderation: str | None = None
    output_compression: WireInteger | None = None
    # Accepted in the values that describe what this service does.
    background: Literal["auto", "opaque"] | None = None
    # Extensions.
    negative_prompt: str | None = None
    seed: WireInteger | None = None
    num_inference_steps: WireInteger | None = None
    guidance_scale: WireNumber | None = None
    sampler: str | None = Field(default=None, description="A sampler's name, such as `DPM++ 2M Karras`.")
    priority: Priority | None = Field(default=None, description="Which waiting jobs go first.")

    def parse_size(self) -> WantedSize:
        """Width and height, None where the choice is ours. Raises RefusalError for a size that can't be read."""
        if self.size is None or self.size == AUTO:
            return None, None
        match = SIZE_PATTERN.fullmatch(self.size)
        if match is None:
            allowed = '"WIDTHxHEIGHT" in pixels, such as "512x512", and "auto"'
            raise refuse_field("size", f"is {truncate_repr(self.size)}, allowed are {allowed}")
        return int(match[1]), int(match[2])

    def to_wanted(self, pictures: InputPictures | None = None, strength: float | None = None) -> Wanted:
        """What is asked for, by our names. Raises RefusalError for a size that can't be read."""
        width, height = (pictures.width_pixels, pictures.height_pixels) if pictures else self.parse_size()
        return Wanted(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt or "",
            width_pixels=width,
            height_pixels=height,
            steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            seed=self.seed,
            images=1 if self.n is None else self.n,
            image_format=self.output_format or ImageFormat.PNG,
            sampler=self.sampler,
            pictures=pictures,
            strength=strength,
        )


class EditFields(ImagesBody):
    """What an edit says besides its pictures."""

    input_fidelity: str | None = None  # accepted without effect, as ``quality`` is
    strength: WireNumber | None = Field(
        default=None, description="Share of the steps that are drawn over the picture; 1 forgets it."
    )


class ImageReference(BaseModel):
    """A picture in a JSON body."""

    model_config = ConfigDict(extra="forbid")

    image_url: str = Field(description="A data: URL; nothing is fetched.")


class EditBody(EditFields):
    """An edit as JSON."""

    images: Annotated[list[ImageReference], Field(min_length=1, max_length=1)]
    mask: ImageReference | None = None


def build_answer(job: Job, data: list[dict[str, str]]) -> dict[str, Any]:
    """The answer to a request without ``stream``."""
    return {
        "created": _created_at(job),
        "data": data,
        "background": "opaque",
        "output_format": job.parameters.image_format,
        "size": _size(job),
        "seed": job.parameters.seed,  # extension: image i was drawn from seed + i
    }


def build_partial_event(job: Job, family: EventFamily, index: int, preview: bytes) -> dict[str, Any]:
    """An unfinished picture in a stream; always a PNG."""
    return {
        "type": f"{family}.partial_image",
        "partial_image_index": index,
        **_describe(job, preview, ImageFormat.PNG),
    }


def build_completed_event(job: Job, family: EventFamily, image: bytes) -> dict[str, Any]:
    """A finished picture in a stream."""
    return {
        "type": f"{family}.completed",
        "usage": NO_TOKENS,
        "seed": job.parameters.seed,
        **_describe(job, image, job.parameters.image_format),
    }


def _describe(job: Job, picture: bytes, image_format: ImageFormat) -> dict[str, Any]:
    return {
        "b64_json": base64.b64encode(picture).decode("ascii"),
        "background": "opaque",
        "created_at": _created_at(job),
        "output_format": image_format,
        "quality": AUTO,
        "size": _size(job),
    }


def _created_at(job: Job) -> int:
    return int((job.finished_at or job.submitted_at).timestamp())


def _size(job: Job) -> str:
    return f"{job.parameters.width_pixels}x{job.parameters.height_pixels}"
