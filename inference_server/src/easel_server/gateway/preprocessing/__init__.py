"""Control images from images: what ControlNets are held to, made without weights, the same for the same image.

What each does and its thresholds are those of AUTOMATIC1111's ControlNet extension, by its names, at the size of the
image that is generated. Takes time and memory: run it in ``Decoders``.
https://github.com/Mikubill/sd-webui-controlnet/wiki/API
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

NONE: Final = "none"
Pixels = NDArray[np.uint8]  # [height, width, 3], RGB


@dataclass(frozen=True)
class Threshold:
    """A number that a preprocessor takes."""

    name: str
    default: float
    least: float
    most: float


@dataclass(frozen=True)
class Preprocessor:
    """One of the table."""

    work: Callable[[Pixels, float, float], Pixels]  # an image, its two thresholds
    kinds: tuple[str, ...]  # of ControlNets that it is for, as front ends group them
    thresholds: tuple[Threshold, ...] = ()


def preprocess(name: str, image: Image.Image, thresholds: tuple[float | None, float | None]) -> Image.Image:
    """The control image, RGB, of the image's size. ``name`` is one of PREPROCESSORS; None: its default."""
    chosen = PREPROCESSORS[name]
    filled = [
        own.default if given is None else given for own, given in zip(chosen.thresholds, thresholds, strict=False)
    ]
    first, second = (*filled, 0.0, 0.0)[:2]
    pixels = np.asarray(image.convert("RGB"), dtype=np.uint8)
    return Image.fromarray(np.ascontiguousarray(chosen.work(pixels, first, second)))


def find_threshold_fault(name: str, thresholds: tuple[float | None, float | None]) -> tuple[int, str] | None:
    """Which of the thresholds isn't allowed, and why."""
    for index, (own, given) in enumerate(zip(PREPROCESSORS[name].thresholds, thresholds, strict=False)):
        if given is not None and not own.least <= given <= own.most:
            return index, f"is {given:g}; {own.name} of {name} is allowed from {own.least:g} to {own.most:g}"
    return None


def _canny(pixels: Pixels, low: float, high: float) -> Pixels:
    import cv2  # noqa: PLC0415  # for those who ask only: it takes a tenth of a second

    return _to_rgb(cv2.Canny(pixels, low, high))


def _invert(pixels: Pixels, _first: float, _second: float) -> Pixels:
    return 255 - pixels


def _blur(pixels: Pixels, sigma: float, _second: float) -> Pixels:
    import cv2  # noqa: PLC0415

    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), sigma), dtype=np.uint8)


def _resample(pixels: Pixels, rate: float, _second: float) -> Pixels:
    """Smaller by the rate, and back: what is finer is lost, for the ControlNet to make anew."""
    import cv2  # noqa: PLC0415

    height, width = pixels.shape[:2]
    small = (max(1, int(width / rate)), max(1, int(height / rate)))
    if small == (width, height):
        return pixels
    smaller = cv2.resize(pixels, small, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(smaller, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def _threshold(pixels: Pixels, least: float, _second: float) -> Pixels:
    return _to_rgb(np.where(pixels.min(axis=2) > least, 255, 0))


def _scribble(pixels: Pixels, least: float, _second: float) -> Pixels:
    """Strokes where a narrow and a wide blur differ (extended difference of Gaussians)."""
    import cv2  # noqa: PLC0415

    exact = pixels.astype(np.float32)
    narrow, wide = cv2.GaussianBlur(exact, (0, 0), 0.5), cv2.GaussianBlur(exact, (0, 0), 5.0)
    difference = np.min(wide - narrow, axis=2)
    return _to_rgb(np.where(np.clip(difference, 0, 255) * 2 > least, 255, 0))


def _line_art(pixels: Pixels, sigma: float, least: float) -> Pixels:
    """Lines darker than what surrounds them, as white on black."""
    import cv2  # noqa: PLC0415

    exact = pixels.astype(np.float32)
    darker = np.clip(np.min(cv2.GaussianBlur(exact, (0, 0), sigma) - exact, axis=2), 0, 255)
    dark = darker[darker > least]
    scale = max(16.0, float(np.median(dark)) if dark.size else 16.0)
    return _to_rgb(np.clip(darker / scale * 127, 0, 255))


def _luminance(pixels: Pixels, gamma: float, _second: float) -> Pixels:
    import cv2  # noqa: PLC0415

    light = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB))[:, :, 0]
    return _to_rgb(np.clip((light / 255.0) ** gamma * 255, 0, 255))


def _intensity(pixels: Pixels, gamma: float, _second: float) -> Pixels:
    return _to_rgb(np.clip((pixels.max(axis=2) / 255.0) ** gamma * 255, 0, 255))


def _to_rgb(grey: NDArray[np.generic]) -> Pixels:
    return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)


_GAMMA: Final = (Threshold("Gamma Correction", 1.0, 0.1, 2.0),)
PREPROCESSORS: Final[Mapping[str, Preprocessor]] = MappingProxyType(
    {
        NONE: Preprocessor(lambda pixels, _, __: pixels, ()),
        "canny": Preprocessor(
            _canny,
            ("Canny",),
            (Threshold("Low Threshold", 100, 1, 255), Threshold("High Threshold", 200, 1, 255)),
        ),
        "invert": Preprocessor(_invert, ("Lineart", "Scribble", "MLSD", "SoftEdge", "Canny")),
        "lineart_standard": Preprocessor(
            _line_art,
            ("Lineart",),
            (Threshold("Gaussian Sigma", 6.0, 0.1, 64.0), Threshold("Intensity Threshold", 8, 0, 255)),
        ),
        "scribble_xdog": Preprocessor(_scribble, ("Scribble",), (Threshold("XDoG Threshold", 32, 1, 64),)),
        "threshold": Preprocessor(_threshold, ("Scribble",), (Threshold("Binarization Threshold", 127, 0, 255),)),
        "tile_resample": Preprocessor(_resample, ("Tile",), (Threshold("Down Sampling Rate", 1.0, 1.0, 8.0),)),
        "blur_gaussian": Preprocessor(_blur, ("Tile",), (Threshold("Sigma", 9.0, 0.01, 64.0),)),
        "recolor_luminance": Preprocessor(_luminance, ("Recolor",), _GAMMA),
        "recolor_intensity": Preprocessor(_intensity, ("Recolor",), _GAMMA),
    }
)
