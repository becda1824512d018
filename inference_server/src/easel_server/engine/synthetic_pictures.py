"""The synthetic engine's pictures: a label on a plain ground, which nobody takes for a model's work."""

import struct
import zlib
from collections.abc import Sequence
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from easel_server.engine.encoding import PNG_KEY, build_description, encode
from easel_server.engine.interface import PREVIEW_SIDE_PIXELS
from easel_server.generation.parameters import GenerationParameters, ImageFormat

TITLE = "SYNTHETIC"
SOFTWARE = {"Engine": "synthetic, no model"}
SHOWN_CHARACTERS = 60  # of the prompt
LINES_A_PICTURE = 12  # the letters' size follows from it
MIN_LETTER_PIXELS = 8
PLAIN_PICTURES = 32  # sizes and formats that are kept
PNG_HEADER_BYTES = 33  # signature and IHDR
GROUND = (38, 50, 72)
INK = (240, 240, 240)


def draw_labelled(parameters: GenerationParameters, seed: int, model: str) -> bytes:
    """A picture that names prompt, seed and size, in the format asked for. Takes milliseconds."""
    lines = [TITLE, parameters.prompt[:SHOWN_CHARACTERS], f"seed {seed}", _size(parameters), model]
    picture = _draw(parameters.width_pixels, parameters.height_pixels, lines)
    return encode(picture, parameters.image_format, _describe(parameters, seed, model))


def look_up_plain(parameters: GenerationParameters, seed: int, model: str) -> bytes:
    """A picture that was encoded before and names its size only; a PNG's text tells prompt and seed all the same."""
    data = _plain(parameters.width_pixels, parameters.height_pixels, parameters.image_format)
    if parameters.image_format is not ImageFormat.PNG:
        return data
    chunk = _build_text_chunk(_describe(parameters, seed, model))
    return data[:PNG_HEADER_BYTES] + chunk + data[PNG_HEADER_BYTES:]


def draw_previews(batch: Sequence[GenerationParameters], steps_done: int) -> list[bytes]:
    """For each request a PNG that says how far it is."""
    return [_draw_preview(parameters, steps_done) for parameters in batch]


def _draw_preview(parameters: GenerationParameters, steps_done: int) -> bytes:
    largest = max(parameters.width_pixels, parameters.height_pixels)
    shrink = min(1.0, PREVIEW_SIDE_PIXELS / largest)
    width, height = round(parameters.width_pixels * shrink), round(parameters.height_pixels * shrink)
    lines = [TITLE, f"step {steps_done} of {parameters.steps}", parameters.prompt[:SHOWN_CHARACTERS]]
    return encode(_draw(max(1, width), max(1, height), lines), ImageFormat.PNG)


@lru_cache(maxsize=PLAIN_PICTURES)
def _plain(width: int, height: int, image_format: ImageFormat) -> bytes:
    return encode(_draw(width, height, [TITLE, f"{width}x{height}"]), image_format)


def _draw(width: int, height: int, lines: list[str]) -> Image.Image:
    picture = Image.new("RGB", (width, height), GROUND)
    letter_pixels = max(MIN_LETTER_PIXELS, min(width, height) // LINES_A_PICTURE)
    font = ImageFont.load_default(letter_pixels)
    pen = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        position = (letter_pixels // 2, letter_pixels // 2 + number * letter_pixels * 3 // 2)
        pen.text(position, line.replace("\n", " "), fill=INK, font=font)
    return picture


def _size(parameters: GenerationParameters) -> str:
    return f"{parameters.width_pixels}x{parameters.height_pixels}"


def _describe(parameters: GenerationParameters, seed: int, model: str) -> str:
    sampler = parameters.sampler or "none"
    return build_description(parameters, seed=seed, model=model, sampler=sampler, software=SOFTWARE)


def _build_text_chunk(text: str) -> bytes:
    """An uncompressed iTXt chunk: https://www.w3.org/TR/png-3/#11iTXt."""
    body = b"iTXt" + PNG_KEY.encode() + b"\0\0\0\0\0" + text.encode()
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
