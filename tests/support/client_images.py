"""Pictures for tests, encoded."""

import io
import struct
import zlib
from typing import Any

from PIL import Image


def encoded(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def decoded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def halves(size: tuple[int, int] = (64, 64), left: str = "red", right: str = "blue") -> Image.Image:
    """Two colours side by side."""
    image = Image.new("RGB", size, left)
    image.paste(Image.new("RGB", (size[0] - size[0] // 2, size[1]), right), (size[0] // 2, 0))
    return image


def with_transparent_half(size: tuple[int, int] = (64, 64)) -> Image.Image:
    """Green on the left, transparent on the right."""
    image = Image.new("RGBA", size, (0, 255, 0, 255))
    image.paste((0, 0, 0, 0), (size[0] // 2, 0, *size))
    return image


def decompression_bomb(side: int = 30_000) -> bytes:
    """A PNG of a few hundred bytes whose header promises side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
