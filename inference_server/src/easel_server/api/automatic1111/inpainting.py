"""Makes the images of img2img into what a worker takes, and pastes a part that was generated alone back into its image.

All of it takes time: run it in ``Decoders``.
"""

import io
from collections.abc import Sequence
from typing import Final

from easel_contract.server_config import LimitsConfig
from PIL import Image, ImageFilter, ImageOps

from easel_server.api.automatic1111.fields import ImageToImageBody
from easel_server.gateway.input_images import (
    Fit,
    Size,
    build_input_images,
    choose_size,
    decode_base64,
    decode_image,
    fit,
    flatten,
)
from easel_server.gateway.refusals import refuse_field
from easel_server.generation.encoding import PNG_KEY, encode
from easel_server.generation.models import GenerationDefaults
from easel_server.generation.parameters import ImageFormat
from easel_server.generation.request import InputImages

NAMES: Final = ImageToImageBody.field_names()

Box = tuple[int, int, int, int]  # left, top, right, bottom
CROP_AND_RESIZE: Final = 1
RESIZE_MODES: Final = (None, 0, CROP_AND_RESIZE)
FILL_WITH_SURROUNDINGS: Final = 0
# From far to near: what is close to the mask's edge covers what is far.
FILL_RADII: Final = (128.0, 32.0, 8.0, 2.0)


def build_inputs(body: ImageToImageBody, defaults: GenerationDefaults, limits: LimitsConfig) -> InputImages:
    """The images of a request. Raises RefusalError."""
    image = flatten(_decode(NAMES["image_digest"], body.init_images[0], limits))
    size = choose_size(image.size, (body.width, body.height), names=NAMES, defaults=defaults, limits=limits)
    if body.resize_mode not in RESIZE_MODES and image.size != size:
        raise refuse_field("resize_mode", f"is {body.resize_mode}, allowed are 0 and 1 for an image of another size")
    way = Fit.CROP if body.resize_mode == CROP_AND_RESIZE else Fit.STRETCH
    if not body.mask:
        return build_input_images({"image": image}, size, way)
    mask = _build_mask(body, image.size, limits)
    start = _fill(image, mask) if _is_filled(body) else image
    if not is_part_generated(body):
        return build_input_images({"image": start, "mask": mask}, size, way)
    box = _choose_box(mask, size, body.inpaint_full_res_padding or 0)
    return build_input_images({"image": start.crop(box), "mask": mask.crop(box)}, size, Fit.STRETCH)


def is_part_generated(body: ImageToImageBody) -> bool:
    """Whether the surroundings of the mask are generated alone, and have to be pasted back."""
    return bool(body.mask) and body.inpaint_full_res is not False


def paste_back(
    body: ImageToImageBody, parts: Sequence[bytes], size: Size, image_format: ImageFormat, limits: LimitsConfig
) -> list[bytes]:
    """The request's image with each of the generated parts, which have this size, in its place.

    The image is decoded again: kept while its job waits, it would hold its memory for long.
    """
    image = flatten(_decode(NAMES["image_digest"], body.init_images[0], limits))
    mask = _build_mask(body, image.size, limits)
    box = _choose_box(mask, size, body.inpaint_full_res_padding or 0)
    return [_paste_back(image, mask, box, part, image_format) for part in parts]


def _paste_back(image: Image.Image, mask: Image.Image, box: Box, part: bytes, image_format: ImageFormat) -> bytes:
    with Image.open(io.BytesIO(part)) as generated:
        description = str(generated.info.get(PNG_KEY, ""))
        resized = generated.convert("RGB").resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.LANCZOS)
    whole = image.copy()
    whole.paste(resized, box[:2])
    return encode(Image.composite(whole, image, mask), image_format, description)


def _decode(field: str, text: str, limits: LimitsConfig) -> Image.Image:
    data = decode_base64(field, text, is_prefix_needed=False)
    return decode_image(field, data, max_pixels=limits.max_input_pixels)


def _build_mask(body: ImageToImageBody, size: Size, limits: LimitsConfig) -> Image.Image:
    mask = fit(_decode(NAMES["mask_digest"], body.mask or "", limits).convert("RGB").convert("L"), size, Fit.STRETCH)
    if body.inpainting_mask_invert:
        mask = ImageOps.invert(mask)
    if any(body.blur):
        mask = mask.filter(ImageFilter.GaussianBlur(body.blur))
    if mask.getbbox() is None:
        raise refuse_field(
            NAMES["mask_digest"],
            "marks nothing; white is generated anew (inpainting_mask_invert: 1 does so with black)",
        )
    return mask


def _is_filled(body: ImageToImageBody) -> bool:
    return (body.inpainting_fill or FILL_WITH_SURROUNDINGS) == FILL_WITH_SURROUNDINGS


def _fill(image: Image.Image, mask: Image.Image) -> Image.Image:
    """The image with what the mask marks painted over in the colours around it."""
    known = image.convert("RGBA")
    known.putalpha(ImageOps.invert(mask))
    # With premultiplied alpha, what is marked adds no colour to a blur of what isn't.
    premultiplied = known.convert("RGBa")
    filled = image.convert("RGBA")
    for radius in FILL_RADII:
        filled.alpha_composite(premultiplied.filter(ImageFilter.GaussianBlur(radius)).convert("RGBA"))
    filled.alpha_composite(known)
    return filled.convert("RGB")


def _choose_box(mask: Image.Image, size: Size, padding: int) -> Box:
    """What to cut out: all that is marked and padding, in the proportions that will be generated if there is room."""
    marked = mask.getbbox() or (0, 0, *mask.size)
    left, right = _widen(marked[0] - padding, marked[2] + padding, mask.width)
    top, bottom = _widen(marked[1] - padding, marked[3] + padding, mask.height)
    proportion = size[0] / size[1]
    if (right - left) / (bottom - top) < proportion:
        left, right = _grow(left, right, round((bottom - top) * proportion), mask.width)
    else:
        top, bottom = _grow(top, bottom, round((right - left) / proportion), mask.height)
    return left, top, right, bottom


def _widen(start: int, end: int, limit: int) -> tuple[int, int]:
    return max(0, start), min(limit, end)


def _grow(start: int, end: int, length: int, limit: int) -> tuple[int, int]:
    length = min(max(length, end - start), limit)
    start = max(0, min(start - (length - (end - start)) // 2, limit - length))
    return start, start + length
