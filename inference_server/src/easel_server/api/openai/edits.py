"""The input images of an edit: as a form or as JSON, and what a worker takes of them.

https://platform.openai.com/docs/api-reference/images/createEdit
"""

from dataclasses import dataclass
from typing import Any, Final

from easel_contract.gateway_config import LimitsConfig
from fastapi import Request
from PIL import Image, ImageOps

from easel_server.api.openai.fields import EditBody, EditFields
from easel_server.api.openapi import describe_bodies, describe_model
from easel_server.gateway.input_images import Fit, build_input_images, choose_size, decode_base64, decode_image
from easel_server.gateway.refusals import refuse_field, refuse_media_type
from easel_server.generation.models import GenerationDefaults
from easel_server.generation.request import InputImages
from easel_server.transport.bodies import JSON_TYPE, read_body, read_form, validate_fields

FORM: Final = "multipart/form-data"
IMAGE_FIELDS: Final = ("image", "image[]")  # the second is what OpenAI's client calls a list


def describe_edit() -> dict[str, Any]:
    """Both bodies, for the API's description."""
    form = describe_model(EditFields)
    image = {"type": "string", "format": "binary"}
    form["properties"] |= {
        "image": {**image, "description": "A PNG, JPEG or WebP."},
        "mask": {**image, "description": "Of the same size; where it is transparent, the image is generated anew."},
    }
    form["required"] = [*form.get("required", ()), "image"]
    return describe_bodies({FORM: form, "application/json": describe_model(EditBody)})


@dataclass(frozen=True)
class Edit:
    """A request for an edit, its images still encoded."""

    fields: EditFields  # without any image
    image: bytes | str  # an image, or a data: URL of one
    mask: bytes | str | None


async def read_edit(request: Request, *, limit_bytes: int) -> Edit:
    """The request, by its Content-Type. Raises RefusalError."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == FORM:
        return await _read_form_edit(request, limit_bytes)
    if kind and not JSON_TYPE.fullmatch(kind):
        raise refuse_media_type(kind, FORM)
    body = await read_body(request, EditBody, limit_bytes=limit_bytes)
    fields = EditFields.model_construct(**{name: getattr(body, name) for name in EditFields.model_fields})
    return Edit(fields, body.images[0].image_url, body.mask.image_url if body.mask else None)


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


def build_edit_inputs(edit: Edit, defaults: GenerationDefaults, limits: LimitsConfig) -> InputImages:
    """The images as a worker takes them. Takes time: run it in ``Decoders``. Raises RefusalError.

    Transparent is where to generate anew: in the mask, or without one in the image itself.
    """
    names = EditFields.field_names()
    original = read_original(names["image_digest"], edit.image)
    image = decode_image(names["image_digest"], original, max_pixels=limits.max_input_pixels)
    mask = None
    if edit.mask is not None:
        mask_name = names["mask_digest"]
        mask = decode_image(mask_name, read_original(mask_name, edit.mask), max_pixels=limits.max_input_pixels)
        if mask.mode != "RGBA":
            raise refuse_field("mask", "has no transparency; where it is transparent, the image is generated anew")
        if mask.size != image.size:
            sizes = f"{mask.width}x{mask.height}, allowed is the image's {image.width}x{image.height}"
            raise refuse_field("mask", f"is {sizes}")
    elif image.mode == "RGBA":
        mask = image
    size = choose_size(image.size, edit.fields.parse_size(), names=names, defaults=defaults, limits=limits)
    return build_input_images({"image": image, "mask": _to_mask(mask)}, size, Fit.CROP, original=original)


def read_original(field: str, image: bytes | str) -> bytes:
    """An image as it was sent. Takes time: run it in ``Decoders``. Raises RefusalError."""
    return decode_base64(field, image, is_prefix_needed=True) if isinstance(image, str) else image


def _to_mask(mask: Image.Image | None) -> Image.Image | None:
    """White where the mask is transparent; None if nothing is."""
    if mask is None:
        return None
    alpha = mask.getchannel("A")
    return ImageOps.invert(alpha) if alpha.getextrema() != (255, 255) else None
