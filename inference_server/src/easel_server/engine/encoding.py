"""Images to bytes. A PNG carries the parameters it was made with, in the text form that image tools read."""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from io import BytesIO

from easel_contract import names
from PIL.Image import Image
from PIL.PngImagePlugin import PngInfo

from easel_server.generation.parameters import GenerationParameters, ImageFormat, build_metadata

LOSSY_QUALITY_PERCENT = 95
PNG_KEY = "parameters"  # the keyword that AUTOMATIC1111's web UI writes, and that viewers look for

library_version = cache(version)  # which reads files


def encode(image: Image, image_format: ImageFormat, description: str = "") -> bytes:
    """The image in a format; ``description`` goes into a PNG."""
    buffer = BytesIO()
    match image_format:
        case ImageFormat.PNG:
            chunks = PngInfo()
            if description:
                chunks.add_itxt(PNG_KEY, description)
            # Level 1: noise-like pixels hardly shrink further, and level 6 takes several times as long.
            image.save(buffer, "PNG", pnginfo=chunks, compress_level=1)
        case ImageFormat.JPEG:
            image.convert("RGB").save(buffer, "JPEG", quality=LOSSY_QUALITY_PERCENT)
        case ImageFormat.WEBP:
            image.save(buffer, "WEBP", quality=LOSSY_QUALITY_PERCENT)
    return buffer.getvalue()


def build_description(
    parameters: GenerationParameters, *, seed: int, model: str, sampler: str, software: Mapping[str, str]
) -> str:
    """An image's text: enough to generate it again.

    ``seed`` is this image's own; ``software`` are the versions that may matter, besides Easel's.
    """
    version_of_easel = f"easel {library_version(names.DISTRIBUTION)}"
    facts = {"Sampler": sampler, "Seed": seed, "Model": model, "Version": version_of_easel, **software}
    return build_metadata(parameters, facts)
