"""Images to bytes, with a text inside: the parameters that they were generated from. And that text back.

The places are those that AUTOMATIC1111's web UI writes to and that viewers look at: in a PNG a text chunk, in a JPEG or
WebP the user's comment of EXIF: https://www.cipa.jp/std/documents/e/DC-008-2012_E.pdf (4.6.5, UserComment)
"""

from io import BytesIO
from typing import Final

from PIL import ExifTags
from PIL.Image import Exif, Image
from PIL.PngImagePlugin import PngInfo

from easel_server.generation.parameters import DEFAULT_QUALITY_PERCENT, ImageFormat

PNG_KEY = "parameters"
UNICODE: Final = b"UNICODE\0"  # the comment's character code, in front of it
UTF_16: Final = "utf-16-be"
MAX_COMMENT_BYTES: Final = 60_000  # a JPEG's EXIF has room for 65,533 with all that is around it


def encode(
    image: Image, image_format: ImageFormat, description: str = "", *, quality_percent: int | None = None
) -> bytes:
    """The image in a format, ``description`` within; ``quality_percent`` is of JPEG and WebP, None the default."""
    buffer = BytesIO()
    quality = DEFAULT_QUALITY_PERCENT if quality_percent is None else quality_percent
    match image_format:
        case ImageFormat.PNG:
            chunks = PngInfo()
            if description:
                chunks.add_itxt(PNG_KEY, description)
            # Level 1: noise-like pixels hardly shrink further, and level 6 takes several times as long.
            image.save(buffer, "PNG", pnginfo=chunks, compress_level=1)
        case ImageFormat.JPEG:
            image.convert("RGB").save(buffer, "JPEG", quality=quality, exif=_build_exif(description))
        case ImageFormat.WEBP:
            image.save(buffer, "WEBP", quality=quality, exif=_build_exif(description))
    return buffer.getvalue()


def _build_exif(description: str) -> bytes:
    if not description:
        return b""
    exif = Exif()
    comment = description.encode(UTF_16, errors="replace")[:MAX_COMMENT_BYTES]
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = UNICODE + comment
    return exif.tobytes()


def read_description(image: Image) -> str:
    """The text within an image as it was opened; empty if there is none."""
    if isinstance(text := image.info.get(PNG_KEY), str):
        return text
    comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    if not isinstance(comment, bytes) or not comment.startswith(UNICODE):
        return ""
    return comment.removeprefix(UNICODE).decode(UTF_16, errors="replace")
