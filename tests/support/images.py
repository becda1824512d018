"""Images for tests, and how far two are apart."""

import hashlib
from io import BytesIO

from PIL import Image, ImageDraw


def open_image(data: bytes) -> Image.Image:
    return Image.open(BytesIO(data))


def pixels_differ_by(one: bytes, other: bytes) -> int:
    """The largest difference of any channel of any pixel, of 255."""
    first, second = (open_image(data).convert("RGB").tobytes() for data in (one, other))
    return max(abs(left - right) for left, right in zip(first, second, strict=True))


def build_image(width: int, height: int, color: tuple[int, int, int] = (200, 60, 30)) -> bytes:
    """A PNG with a disc on a ground."""
    image = Image.new("RGB", (width, height), (20, 90, 160))
    ImageDraw.Draw(image).ellipse((width // 4, height // 4, width * 3 // 4, height * 3 // 4), fill=color)
    return _encode(image)


def build_mask(width: int, height: int) -> bytes:
    """A PNG that is white in its right half."""
    mask = Image.new("L", (width, height), 0)
    mask.paste(255, (width // 2, 0, width, height))
    return _encode(mask)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _encode(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
