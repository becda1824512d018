"""A job's images as values: where one is kept, what kind it is, and how large those of a request may become. Pure."""

from dataclasses import dataclass
from typing import Final

from easel_server.generation.parameters import DEFAULT_QUALITY_PERCENT, GenerationParameters, ImageFormat
from easel_server.generation.recipes.recipe import write_json

MEDIA_TYPES: Final = {
    ImageFormat.PNG: "image/png",
    ImageFormat.JPEG: "image/jpeg",
    ImageFormat.WEBP: "image/webp",
}
# Of pure noise, which shrinks least: PNG takes its three bytes a pixel, JPEG up to 1.57 and WebP up to 1.24 at the
# quality that images are written with by default, and JPEG up to 2.32 at the highest
# (tests/inference_server/generation/test_images.py measures it).
MAX_BYTES_PER_PIXEL: Final = {ImageFormat.PNG: 3.0, ImageFormat.JPEG: 2.0, ImageFormat.WEBP: 2.0}
BEST_JPEG_BYTES_PER_PIXEL: Final = 2.5
FORMAT_SHARE: Final = 0.02  # what a format adds to the pixels: filters, blocks
HEADER_BYTES: Final = 6144  # headers, and what an image's texts say besides the prompts

MAX_PREVIEW_BYTES: Final = 3 * 512 * 512 + HEADER_BYTES  # a PNG of 512 pixels a side, the most that previews have


@dataclass(frozen=True, slots=True)
class ImageReference:
    """One image that is kept somewhere."""

    key: str  # in the store that keeps it, or in the bucket
    size_bytes: int  # 0: not known (an earlier version kept it)
    media_type: str
    bucket: str | None = None  # None: with the jobs, in Redis or in memory


def max_result_bytes(parameters: GenerationParameters) -> int:
    """The most that a request's images can take together, encoded."""
    width, height = parameters.image_size
    pixels = width * height
    prompts = parameters.prompt + parameters.negative_prompt
    # Twice: as AUTOMATIC1111's text, which EXIF has in UTF-16, and in the recipe.
    text = max(len(prompts.encode()), len(prompts.encode("utf-16-be"))) + len(write_json(prompts).encode())
    bytes_per_pixel = MAX_BYTES_PER_PIXEL[parameters.image_format]
    if parameters.image_format is ImageFormat.JPEG and (parameters.quality_percent or 0) > DEFAULT_QUALITY_PERCENT:
        bytes_per_pixel = BEST_JPEG_BYTES_PER_PIXEL
    one = pixels * bytes_per_pixel * (1 + FORMAT_SHARE) + text + HEADER_BYTES
    return parameters.images * round(one)
