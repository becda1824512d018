"""An image that is only enlarged: POST /v1/images/upscales, as a form or as JSON. OpenAI has no such route."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

from easel_contract.gateway_config import LimitsConfig
from easel_contract.server_config import Priority
from fastapi import Request
from pydantic import Field

from easel_server.api.enlarging import UPSCALER_DESCRIPTION, FactorField, build_enlarge_inputs, choose_upscaling
from easel_server.api.fields import ApiBody, MapsTo, WireInteger
from easel_server.api.openai.edits import FORM, IMAGE_FIELDS, read_original
from easel_server.api.openai.fields import ImageReference, ResponseFormat
from easel_server.api.openapi import describe_bodies, describe_model
from easel_server.gateway.refusals import refuse_field, refuse_media_type
from easel_server.generation.add_ons import UpscalingRequest
from easel_server.generation.parameters import ImageFormat
from easel_server.generation.request import InputImages
from easel_server.transport.bodies import JSON_TYPE, read_body, read_form, validate_fields

IMAGE: Final = "image"


class UpscaleFields(ApiBody):
    """What is said besides the image."""

    COMPUTED: ClassVar[Mapping[str, str]] = {"upscale": "scale", "image_digest": IMAGE, "task": IMAGE}

    model: str | None = None
    scale: FactorField = Field(default=None, description="By how much each side is enlarged: 2 by default.")
    upscaler: str | None = Field(default=None, description=UPSCALER_DESCRIPTION)
    response_format: ResponseFormat | None = None
    output_format: Annotated[ImageFormat | None, MapsTo("image_format")] = None
    output_compression: Annotated[WireInteger | None, MapsTo("quality_percent")] = Field(
        default=None, description="Quality of jpeg and webp in percent: 0 to 100. Without effect on png."
    )
    user: str | None = None
    priority: Priority | None = Field(default=None, description="Which waiting jobs go first.")

    def given(self) -> dict[str, Any]:
        """What enlarges; a recipe's as long as nothing else is said."""
        is_said = self.scale is not None or self.upscaler is not None
        values = super().given()
        if not is_said and "upscale" in values:
            return choose_upscaling(values, None)
        return choose_upscaling(values, UpscalingRequest(factor=self.scale, upscaler=self.upscaler))


class UpscaleBody(UpscaleFields):
    """The same as JSON."""

    images: Annotated[list[ImageReference], Field(min_length=1, max_length=1)]


@dataclass(frozen=True)
class Upscale:
    """A request, its image still encoded."""

    fields: UpscaleFields
    image: bytes | str  # an image, or an address of one


def describe_upscale() -> dict[str, Any]:
    """Both bodies, for the API's description."""
    form = describe_model(UpscaleFields)
    form["properties"][IMAGE] = {"type": "string", "format": "binary", "description": "A PNG, JPEG or WebP."}
    form["required"] = [*form.get("required", ()), IMAGE]
    return describe_bodies({FORM: form, "application/json": describe_model(UpscaleBody)})


async def read_upscale(request: Request, *, limit_bytes: int) -> Upscale:
    """The request, by its Content-Type. Raises RefusalError."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == FORM:
        form = await read_form(request, limit_bytes=limit_bytes)
        images = [data for name in IMAGE_FIELDS for data in form.files.pop(name, [])]
        if len(images) != 1:
            raise refuse_field(IMAGE, f"is given {len(images)} times as a file, and must be given once")
        for name in form.files:
            raise refuse_field(name, "is a file, allowed as a file is image")
        return Upscale(validate_fields(UpscaleFields, form.fields), images[0])
    if kind and not JSON_TYPE.fullmatch(kind):
        raise refuse_media_type(kind, FORM)
    body = await read_body(request, UpscaleBody, limit_bytes=limit_bytes)
    fields = UpscaleFields.model_construct(**{name: getattr(body, name) for name in UpscaleFields.model_fields})
    return Upscale(fields, body.images[0].image_url)


def build_upscale_inputs(upscale: Upscale, limits: LimitsConfig) -> InputImages:
    """The image as a worker takes it. Takes time: run it in ``Decoders``. Raises RefusalError."""
    return build_enlarge_inputs(IMAGE, read_original(IMAGE, upscale.image), limits)
