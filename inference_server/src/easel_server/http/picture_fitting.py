"""Brings input pictures to the size of the picture that is drawn. Pure, but for the time that it takes."""

import math
from enum import StrEnum

from easel_contract.server_config import LimitsConfig
from PIL import Image, ImageOps

from easel_server.generation_defaults import GenerationDefaults
from easel_server.http.admission import MINIMUM_SIDE_PIXELS, SIDE_STEP_PIXELS, FieldNames, check_side
from easel_server.http.input_images import InputPictures, encode_png, flatten
from easel_server.http.refusals import refuse_fields

Size = tuple[int, int]  # width and height in pixels
WantedSize = tuple[int | None, int | None]  # None where the client left it open


class Fit(StrEnum):
    """What becomes of a picture whose proportions differ."""

    STRETCH = "Stretch"
    CROP = "Crop"  # the middle of it is kept


def choose_size(
    picture: Size, wanted: WantedSize, *, names: FieldNames, defaults: GenerationDefaults, limits: LimitsConfig
) -> Size:
    """The size to draw: as wanted, else in the picture's proportions and no more pixels than the model's default.

    Raises RefusalError for a size that isn't allowed, so that nothing is ever resized to it.
    """
    most_pixels = defaults.width_pixels * defaults.height_pixels
    scale = min(1.0, math.sqrt(most_pixels / (picture[0] * picture[1])))
    largest_width, largest_height = limits.max_width_pixels, limits.max_height_pixels
    width = wanted[0] if wanted[0] is not None else _round_side(picture[0] * scale, largest_width)
    height = wanted[1] if wanted[1] is not None else _round_side(picture[1] * scale, largest_height)
    faults = [*check_side(names.width, width, largest_width), *check_side(names.height, height, largest_height)]
    if faults:
        raise refuse_fields(*faults)
    return width, height


def _round_side(pixels: float, largest: int) -> int:
    steps = min(round(pixels / SIDE_STEP_PIXELS), largest // SIDE_STEP_PIXELS)
    return max(MINIMUM_SIDE_PIXELS, steps * SIDE_STEP_PIXELS)


def fit(picture: Image.Image, size: Size, way: Fit) -> Image.Image:
    """The picture at exactly this size."""
    if picture.size == size:
        return picture
    resample = Image.Resampling.LANCZOS
    return ImageOps.fit(picture, size, resample) if way is Fit.CROP else picture.resize(size, resample)


def build_input_pictures(image: Image.Image, mask: Image.Image | None, size: Size, way: Fit) -> InputPictures:
    """Picture and mask (L: 255 is redrawn) as a worker takes them. Takes time: run it in ``Decoders``."""
    return InputPictures(
        width_pixels=size[0],
        height_pixels=size[1],
        image=encode_png(fit(flatten(image), size, way)),
        mask=encode_png(fit(mask.convert("L"), size, way)) if mask is not None else None,
    )
