"""Images to bytes. A PNG carries a text: the parameters that it was generated from."""

from io import BytesIO

from PIL.Image import Image
from PIL.PngImagePlugin import PngInfo

from easel_server.generation.parameters import ImageFormat

LOSSY_QUALITY_PERCENT = 95
PNG_KEY = "parameters"  # the keyword that AUTOMATIC1111's web UI writes, and that viewers look for


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
