"""Pictures that clients send: checked before they are decoded, and made into what a worker takes.

A few kilobytes can stand for gigapixels, so the pixels are counted by a picture's header first. Decoding runs in
threads, a few at a time, since each may take a hundred megabytes.
"""

import asyncio
import base64
import binascii
import hashlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeVar

from PIL import Image, ImageOps, UnidentifiedImageError

from easel_server.http.refusals import RefusalError, refuse_field

FORMATS: Final = ("PNG", "JPEG", "WEBP")
MAGIC: Final = re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|RIFF....WEBP", re.DOTALL)
ALLOWED: Final = "allowed is a still PNG, JPEG or WebP"
DATA_URL: Final = re.compile(r"data:[a-z0-9.+/-]{0,100};base64,", re.IGNORECASE)
DECODERS: Final = 2  # pictures in work at a time, in a gateway
BACKGROUND: Final = "white"  # behind what is transparent
PNG_COMPRESS_LEVEL: Final = 1  # they travel once: time counts for more than size

# Pillow's own bound warns first and is the same for everybody; ``limits.maxInputPixels`` is checked in its place.
Image.MAX_IMAGE_PIXELS = None

T = TypeVar("T")


@dataclass(frozen=True)
class InputPictures:
    """Pictures as ``GenerationParameters`` wants them, both of the size of the picture that will be drawn."""

    width_pixels: int
    height_pixels: int
    image: bytes  # PNG, RGB
    mask: bytes | None = None  # PNG, L: 255 is redrawn

    @cached_property
    def image_digest(self) -> str:
        """SHA-256 of the picture to begin with."""
        return hashlib.sha256(self.image).hexdigest()

    @cached_property
    def mask_digest(self) -> str | None:
        """SHA-256 of the mask."""
        return hashlib.sha256(self.mask).hexdigest() if self.mask is not None else None

    def by_digest(self) -> dict[str, bytes]:
        """All of them, as they are handed to the broker."""
        pictures = {self.image_digest: self.image}
        if self.mask is not None and self.mask_digest is not None:
            pictures[self.mask_digest] = self.mask
        return pictures


class Decoders:
    """Threads for work on pictures, few enough that their memory is bounded."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(DECODERS)

    async def run(self, work: Callable[[], T]) -> T:
        """The work's result; waits for its turn."""
        async with self._free:
            return await asyncio.to_thread(work)


def decode_base64(field: str, text: str, *, is_prefix_needed: bool) -> bytes:
    """The bytes behind a ``data:`` URL, or behind bare base64. Raises RefusalError."""
    prefix = DATA_URL.match(text)
    if text.startswith(("http://", "https://")):
        raise refuse_field(field, "is a web address, and this service fetches none; send the picture as a data: URL")
    if prefix is None and is_prefix_needed:
        raise refuse_field(field, "must be a data: URL, such as data:image/png;base64,iVBORw0…")
    try:
        return base64.b64decode(text[prefix.end() if prefix else 0 :], validate=True)
    except (binascii.Error, ValueError):
        raise refuse_field(field, "is not base64") from None


def decode_picture(field: str, data: bytes, *, max_pixels: int) -> Image.Image:
    """The picture, upright, as RGB, RGBA or L. Takes time and memory: run it in ``Decoders``. Raises RefusalError."""
    if not MAGIC.match(data):
        raise refuse_field(field, f"is no picture that is understood ({len(data)} bytes); {ALLOWED}")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            _check_header(field, opened, max_pixels)
            opened.load()
            return _normalise_mode(ImageOps.exif_transpose(opened))
    except (RefusalError, MemoryError):
        raise
    except UnidentifiedImageError:  # its message tells an address in memory
        raise refuse_field(field, f"is damaged in its header; {ALLOWED}") from None
    except Exception as error:  # what decoders stumble over in damaged files has no common type
        raise refuse_field(field, f"is damaged or cut off ({error}); {ALLOWED}") from None


def _check_header(field: str, opened: Image.Image, max_pixels: int) -> None:
    pixels = opened.width * opened.height
    if pixels > max_pixels:
        size = f"{opened.width}x{opened.height} = {pixels} pixels"
        raise refuse_field(field, f"has {size}, at most {max_pixels} are allowed")
    frames = getattr(opened, "n_frames", 1)
    if frames > 1 and opened.format in FORMATS:  # a camera's MPO holds smaller copies: the first is the picture
        raise refuse_field(field, f"is animated ({frames} frames); {ALLOWED}")


def _normalise_mode(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16 bits of grey
        picture = picture.convert("I").point(lambda value: value / 256).convert("L")
    if picture.has_transparency_data:
        return picture.convert("RGBA")
    return picture if picture.mode == "L" else picture.convert("RGB")


def flatten(picture: Image.Image) -> Image.Image:
    """Without transparency: what shows through is white."""
    if picture.mode != "RGBA":
        return picture.convert("RGB")
    background = Image.new("RGBA", picture.size, BACKGROUND)
    return Image.alpha_composite(background, picture).convert("RGB")


def encode_png(picture: Image.Image) -> bytes:
    """The same bytes for the same pixels, without anything besides."""
    buffer = io.BytesIO()
    picture.info = {}
    picture.save(buffer, format="PNG", compress_level=PNG_COMPRESS_LEVEL)
    return buffer.getvalue()
