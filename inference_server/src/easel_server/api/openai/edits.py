"""Edits in OpenAI's API: a picture, perhaps a mask, and what to make of them; as a form or as JSON.

https://platform.openai.com/docs/api-reference/images/createEdit
"""

from dataclasses import dataclass
from typing import Any

from easel_contract.server_config import LimitsConfig
from fastapi import Request
from PIL import Image, ImageOps

from easel_server.api.openai.fields import NAMES, EditBody, EditFields
from easel_server.api.openapi import describe_bodies, describe_model
from easel_server.gateway.input_images import Fit, build_input_pictures, choose_size, decode_base64, decode_picture
from easel_server.gateway.refusals import refuse_field
from easel_server.generation.models import GenerationDefaults
from easel_server.generation.request import InputPictures
from easel_server.transport.bodies import read_body, read_form, validate_fields

FORM = "multipart/form-data"


IMAGE_FIELDS = ("image", "image[]")  # the second is what OpenAI's client calls a list


def describe_edit() -> dict[str, Any]:
    """Both bodies, for the API's description."""
    form = describe_model(EditFields)
    picture = {"type": "string", "format": "binary"}
    form["properties"] |= {
        "image": {**picture, "description": "A PNG, JPEG or WebP."},
        "mask": {**picture, "description": "Of the same size; where it is transparent, the picture is redrawn."},
    }
    form["required"] = [*form["required"], "image"]
    return describe_bodies({FORM: form, "application/json": describe_model(EditBody)})


@dataclass(frozen=True)
class Edit:
    """A request for an edit, its pictures still encoded."""

    fields: EditFields
    image: bytes | str  # a picture, or a data: URL of one
    mask: bytes | str | None


async def read_edit(request: Request, *, limit_bytes: int) -> Edit:
    """The request, by its Content-Type. Raises RefusalError."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == FORM:
        return await _read_form_edit(request, limit_bytes)
    body = await read_body(request, EditBody, limit_bytes=limit_bytes)
    return Edit(body, body.images[0].image_url, body.mask.image_url if body.mask else None)


async def _read_form_edit(request: Request, limit_bytes: int) -> Edit:
    form = await read_form(request, limit_bytes=limit_bytes)
    images = [data for name in IMAGE_FIELDS for data in form.files.pop(name, [])]
    masks = form.files.pop("mask", [])
    if len(images) != 1:
        raise refuse_field("image", f"is given {len(images)} times as a file, and must be given once")
    if len(masks) > 1:
        raise refuse_field("mask", f"is given {len(masks)} times as a file, at most once is allowed")
    for name in form.files:
        raise refuse_field(name, "is a file, allowed as files are image and mask")
    return Edit(validate_fields(EditFields, form.fields), images[0], masks[0] if masks else None)


def build_edit_pictures(edit: Edit, defaults: GenerationDefaults, limits: LimitsConfig) -> InputPictures:
    """The pictures as a worker takes them. Takes time: run it in ``Decoders``. Raises RefusalError.

    Transparent is where to redraw: in the mask, or without one in the picture itself.
    """
    image = _decode(NAMES.image, edit.image, limits)
    mask = None
    if edit.mask is not None:
        mask = _decode(NAMES.mask, edit.mask, limits)
        if mask.mode != "RGBA":
            raise refuse_field("mask", "has no transparency; where it is transparent, the picture is redrawn")
        if mask.size != image.size:
            sizes = f"{mask.width}x{mask.height}, allowed is the picture's {image.width}x{image.height}"
            raise refuse_field("mask", f"is {sizes}")
    elif image.mode == "RGBA":
        mask = image
    size = choose_size(image.size, edit.fields.parse_size(), names=NAMES, defaults=defaults, limits=limits)
    return build_input_pictures(image, _redraw_transparent(mask), size, Fit.CROP)


def _decode(field: str, picture: bytes | str, limits: LimitsConfig) -> Image.Image:
    data = decode_base64(field, picture, is_prefix_needed=True) if isinstance(picture, str) else picture
    return decode_picture(field, data, max_pixels=limits.max_input_pixels)


def _redraw_transparent(mask: Image.Image | None) -> Image.Image | None:
    if mask is None:
        return None
    alpha = mask.getchannel("A")
    return ImageOps.invert(alpha) if alpha.getextrema() != (255, 255) else None
