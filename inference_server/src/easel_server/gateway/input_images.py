"""Images that clients send: checked before they are decoded, and made into what a worker takes.

A few kilobytes can stand for gigapixels, so the pixels are counted by the image's header first. Decoding runs in
threads, a few at a time, since each may take a hundred megabytes.
"""

import asyncio
import base64
import binascii
import io
import math
import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from enum import StrEnum
from typing import Final, TypeVar

from easel_contract.gateway_config import LimitsConfig
from PIL import Image, ImageChops, ImageOps, UnidentifiedImageError

from easel_server.gateway.inputs.fetching import InputUrls
from easel_server.gateway.inputs.turns import Turns
from easel_server.gateway.refusals import FieldFault, RefusalError, refuse_field, refuse_fields
from easel_server.generation.models import GenerationDefaults
from easel_server.generation.parameters import MIN_SIDE_PIXELS, check_side
from easel_server.generation.request import InputImages
from easel_server.generation.tasks import INPUTS

FORMATS: Final = ("PNG", "JPEG", "WEBP")
MAGIC: Final = re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|RIFF....WEBP", re.DOTALL)
ALLOWED: Final = "allowed is a still PNG, JPEG or WebP"
DATA_URL: Final = re.compile(
    r"data:[a-z0-9.+/-]{0,100}(?:;[a-z0-9.+_-]{1,50}=[^;,]{0,100}){0,3};base64,", re.IGNORECASE
)
WHITE_SPACE: Final = b" \t\r\n"
DECODERS: Final = 2  # images in work at a time, in a gateway
BACKGROUND: Final = "white"  # behind what is transparent
PNG_EFFORT: Final = {"compress_level": 1}  # they travel once: time counts for more than size
# Of lossless WebP: in less time than PNG's fastest, 40 % smaller (a photo of 2048 pixels a side: 0.4 s and 0.6 s).
WEBP_EFFORT: Final = {"method": 0, "quality": 20}
MAX_WEBP_SIDE_PIXELS: Final = 16383  # https://developers.google.com/speed/webp/faq
NOISE_BYTES_PER_PIXEL: Final = 2.0  # of no photo; PNG may do better there
SURELY_SMALLER_BYTES_PER_PIXEL: Final = 0.5  # than any photo without loss
JPEG_START: Final = b"\xff\xd8"
JPEG_SCAN: Final = b"\xff\xda"  # behind it come pixels
JPEG_UNNEEDED: Final = frozenset(b"\xff" + bytes([code]) for code in (*range(0xE1, 0xEE), 0xEF, 0xFE))

# Pillow's own bound warns first and is the same for everybody; ``limits.maxInputPixels`` is checked in its place.
Image.MAX_IMAGE_PIXELS = None
T = TypeVar("T")


class UnfetchedError(Exception):
    """An image is asked for by its address, and isn't here yet."""

    def __init__(self, field: str, url: str) -> None:
        self.field, self.url = field, url
        super().__init__(f"{field} is an address")


# What is at the addresses of the request whose images are being decoded; None outside of ``Decoders``.
_fetched: ContextVar[Mapping[str, bytes] | None] = ContextVar("fetched", default=None)


class Decoders:
    """Threads for work on images, few enough that their memory is bounded. Customers that wait have them in turn."""

    def __init__(self, urls: InputUrls | None = None) -> None:
        """``urls`` fetches images by their addresses; None: that isn't done."""
        self._turns = Turns(DECODERS)
        self._urls = urls if urls is not None and urls.are_allowed else None

    async def run(self, customer: str, work: Callable[[], T], fetched: dict[str, bytes] | None = None) -> T:
        """The work's result; waits until a thread is free.

        Work that meets the address of an image (``decode_base64``) is ended, and begun again once that is fetched: so
        it may be anything that reads images, and no thread waits for a host. What was fetched is put into ``fetched``,
        for a second work on the same images; what is in it already, such as uploaded files by their addresses, isn't
        fetched. Raises RefusalError, and what the work raises.
        """
        fetched = {} if fetched is None else fetched
        try:
            return await self._decode(customer, work, fetched)
        except UnfetchedError as met:
            missing = met
        if self._urls is None:
            raise _refuse_to_fetch(missing.field)
        async with self._urls.turn(customer) as fetches:
            while True:
                fetched[missing.url] = await fetches.fetch(missing.field, missing.url)
                try:
                    return await self._decode(customer, work, fetched)
                except UnfetchedError as met:
                    missing = met

    async def _decode(self, customer: str, work: Callable[[], T], fetched: Mapping[str, bytes]) -> T:
        async with self._turns.taken(customer):
            token = _fetched.set(fetched)
            try:
                return await asyncio.to_thread(work)
            finally:
                _fetched.reset(token)


def decode_base64(field: str, text: str, *, is_prefix_needed: bool) -> bytes:
    """The bytes behind a ``data:`` URL, behind bare base64, broken into lines or not, or at an address.

    Raises RefusalError; in ``Decoders`` UnfetchedError for an address, until it was fetched.
    """
    text = text.strip()
    prefix = DATA_URL.match(text)
    if text[:8].lower().startswith(("http://", "https://")):
        return _find_fetched(field, text)
    if prefix is None and is_prefix_needed:
        raise refuse_field(field, "must be a data: URL, such as data:image/png;base64,iVBORw0…")
    try:
        return _decode_strictly(text[prefix.end() if prefix else 0 :].encode("ascii"))
    except ValueError:
        raise refuse_field(field, "is not base64") from None


def _find_fetched(field: str, url: str) -> bytes:
    fetched = _fetched.get()
    if fetched is None:
        raise _refuse_to_fetch(field)
    if url not in fetched:
        raise UnfetchedError(field, url)
    return fetched[url]


def _refuse_to_fetch(field: str) -> RefusalError:
    advice = "send the image as a data: URL; predictions also take the address of a file uploaded to /v1/files"
    return refuse_field(field, f"is a web address, and this service fetches none; {advice}")


def _decode_strictly(encoded: bytes) -> bytes:
    """Bytes of base64; line breaks are the only strangers. Raises ValueError."""
    try:
        return base64.b64decode(encoded, validate=True)
    except binascii.Error:
        # Many encoders break lines as mail does: https://www.rfc-editor.org/rfc/rfc2045#section-6.8
        return base64.b64decode(encoded.translate(None, WHITE_SPACE), validate=True)


def find_media_type(data: bytes) -> str | None:
    """Of an image that may be an input, by its first bytes; None for anything else."""
    found = MAGIC.match(data)
    return {b"\x89": "image/png", b"\xff": "image/jpeg", b"R": "image/webp"}[found[0][:1]] if found else None


def decode_image(field: str, data: bytes, *, max_pixels: int) -> Image.Image:
    """The image, upright, as RGB, RGBA or L. Takes time and memory: run it in ``Decoders``. Raises RefusalError."""
    if not MAGIC.match(data):
        raise refuse_field(field, f"is no image that can be read ({len(data)} bytes); {ALLOWED}")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            _check_header(field, opened, max_pixels)
            opened.load()
            return _normalise_mode(ImageOps.exif_transpose(opened))
    except (RefusalError, MemoryError):
        raise
    except UnidentifiedImageError:  # its message holds an address in memory
        raise refuse_field(field, f"is damaged in its header; {ALLOWED}") from None
    except Exception as error:  # what decoders stumble over in damaged files has no common type
        raise refuse_field(field, f"is damaged or cut off ({error}); {ALLOWED}") from None


def _check_header(field: str, opened: Image.Image, max_pixels: int) -> None:
    pixels = opened.width * opened.height
    if pixels > max_pixels:
        size = f"{opened.width}x{opened.height} = {pixels} pixels"
        raise refuse_field(field, f"has {size}, at most {max_pixels} are allowed")
    frames = getattr(opened, "n_frames", 1)
    if frames > 1 and opened.format in FORMATS:  # a camera's MPO holds smaller copies: the first is the image
        raise refuse_field(field, f"is animated ({frames} frames); {ALLOWED}")


def _normalise_mode(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey
        image = image.convert("I").point(lambda value: value / 256).convert("L")
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image if image.mode == "L" else image.convert("RGB")


def flatten(image: Image.Image) -> Image.Image:
    """Without transparency: what shows through is white."""
    if image.mode != "RGBA":
        return image.convert("RGB")
    background = Image.new("RGBA", image.size, BACKGROUND)
    return Image.alpha_composite(background, image).convert("RGB")


def encode_lossless(image: Image.Image) -> bytes:
    """The same bytes for the same pixels, without anything besides."""
    image.info = {}
    if image.mode == "L" or max(image.size) > MAX_WEBP_SIDE_PIXELS:  # which WebP doesn't know
        return _save(image, "PNG", **PNG_EFFORT)
    webp = _save(image, "WEBP", lossless=True, exact=True, **WEBP_EFFORT)
    if len(webp) < image.width * image.height * NOISE_BYTES_PER_PIXEL:
        return webp
    return min(webp, _save(image, "PNG", **PNG_EFFORT), key=len)


def encode_png(image: Image.Image) -> bytes:
    """Without anything besides the pixels."""
    image.info = {}
    return _save(image, "PNG", **PNG_EFFORT)


def _save(image: Image.Image, image_format: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def _strip_jpeg(data: bytes) -> bytes | None:
    """A JPEG without comments and applications' data, the pixels untouched; None for what isn't one.

    Kept is what decoders look at: JFIF's and Adobe's segments. https://www.w3.org/Graphics/JPEG/itu-t81.pdf (B.1.1.3)
    """
    if not data.startswith(JPEG_START):
        return None
    kept, at = [JPEG_START], len(JPEG_START)
    while (marker := data[at : at + 2])[:1] == b"\xff" and len(marker) == 2 and marker != JPEG_SCAN:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if marker not in JPEG_UNNEEDED:
            kept.append(data[at:end])
        at = end
    return b"".join([*kept, data[at:]]) if marker == JPEG_SCAN else None


def _shows(data: bytes, image: Image.Image) -> bool:
    """Whether a worker that opens the data sees these very pixels."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            if opened.size != image.size:
                return False
            return ImageChops.difference(opened.convert(image.mode), image).getbbox() is None
    except (OSError, SyntaxError, ValueError):  # as Pillow's decoders raise them: something was needed after all
        return False


Size = tuple[int, int]  # width and height in pixels
RequestedSize = tuple[int | None, int | None]  # None where the client left it open


class Fit(StrEnum):
    """What becomes of an image whose proportions differ."""

    STRETCH = "Stretch"
    CROP = "Crop"  # the middle of it is kept


def choose_size(
    image: Size,
    requested: RequestedSize,
    *,
    names: Mapping[str, str],
    defaults: GenerationDefaults,
    limits: LimitsConfig,
) -> Size:
    """The size to generate: as requested, else in the image's proportions and no more pixels than the model's default.

    Raises RefusalError for a size that isn't allowed, so that nothing is ever resized to it.
    """
    most_pixels = defaults.width_pixels * defaults.height_pixels
    scale = min(1.0, math.sqrt(most_pixels / (image[0] * image[1])))
    largest_width, largest_height = limits.max_width_pixels, limits.max_height_pixels
    step_pixels = defaults.traits.size_step_pixels
    width = requested[0] if requested[0] is not None else _round_side(image[0] * scale, largest_width, step_pixels)
    height = requested[1] if requested[1] is not None else _round_side(image[1] * scale, largest_height, step_pixels)
    sides = (("width_pixels", width, largest_width), ("height_pixels", height, largest_height))
    faults = [
        FieldFault(names[side], fault)
        for side, pixels, most in sides
        if (fault := check_side(pixels, most, step_pixels)) is not None
    ]
    if faults:
        raise refuse_fields(*faults)
    return width, height


def _round_side(pixels: float, largest: int, step_pixels: int) -> int:
    steps = min(round(pixels / step_pixels), largest // step_pixels)
    return max(MIN_SIDE_PIXELS, steps * step_pixels)


def fit(image: Image.Image, size: Size, way: Fit) -> Image.Image:
    """The image at exactly this size."""
    if image.size == size:
        return image
    resample = Image.Resampling.LANCZOS
    return ImageOps.fit(image, size, resample) if way is Fit.CROP else image.resize(size, resample)


def build_input_images(
    images: Mapping[str, Image.Image | None], size: Size, way: Fit, *, original: bytes = b""
) -> InputImages:
    """Inputs by the names of ``tasks/`` as a worker takes them; None: there is none.

    ``original`` is the input ``image`` as it came: a JPEG whose pixels are taken as they are travels as it is, since
    without loss it would be several times as large. Takes time: run it in ``Decoders``.
    """
    encoded = {
        name: _encode(image, INPUTS[name].mode, size, way, original if name == "image" else b"")
        for name, image in images.items()
        if image is not None
    }
    return InputImages(width_pixels=size[0], height_pixels=size[1], images=encoded)


def _encode(image: Image.Image, mode: str, size: Size, way: Fit, original: bytes) -> bytes:
    wanted = fit(flatten(image) if mode == "RGB" else image.convert(mode), size, way)
    stripped = _strip_jpeg(original) if image.size == size else None
    if stripped is None or not _shows(stripped, wanted):
        return encode_lossless(wanted)
    if len(stripped) <= size[0] * size[1] * SURELY_SMALLER_BYTES_PER_PIXEL:
        return stripped
    return min(encode_lossless(wanted), stripped, key=len)
