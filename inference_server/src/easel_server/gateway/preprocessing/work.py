"""The preprocessors' work on pixels. Imports NumPy and OpenCV: to be imported by who preprocesses, not before."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from easel_server.gateway.preprocessing import NONE

Pixels = NDArray[np.uint8]  # [height, width, 3], RGB
Work = Callable[[Pixels, float, float], Pixels]  # of an image and its two thresholds


def work_on(image: Image.Image, work: Work, first: float, second: float) -> Image.Image:
    """The control image, RGB."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.uint8)
    return Image.fromarray(np.ascontiguousarray(work(pixels, first, second)))


def match(image: Image.Image, like: Image.Image) -> Image.Image:
    """See ``match_colors``: in CIELAB, the two channels of colour get the other image's histograms."""
    own, other = (
        np.asarray(cv2.cvtColor(np.asarray(each, dtype=np.uint8), cv2.COLOR_RGB2LAB), dtype=np.uint8)
        for each in (image, like)
    )
    for channel in (1, 2):
        values, shares = _count_shares(own[..., channel])
        others, wanted = _count_shares(other[..., channel])
        table = np.zeros(256, dtype=np.uint8)
        table[values] = np.interp(shares, wanted, others).round()
        own[..., channel] = table[own[..., channel]]
    return Image.fromarray(cv2.cvtColor(own, cv2.COLOR_LAB2RGB))


def _count_shares(channel: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The values that there are, and of each the share of all that are no larger."""
    values, counts = np.unique(channel, return_counts=True)
    return values, np.cumsum(counts) / channel.size


def _canny(pixels: Pixels, low: float, high: float) -> Pixels:
    return _to_rgb(cv2.Canny(pixels, low, high))


def _invert(pixels: Pixels, _first: float, _second: float) -> Pixels:
    return 255 - pixels


def _blur(pixels: Pixels, sigma: float, _second: float) -> Pixels:
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), sigma), dtype=np.uint8)


def _resample(pixels: Pixels, rate: float, _second: float) -> Pixels:
    """Smaller by the rate, and back: what is finer is lost, for the ControlNet to make anew."""
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
    exact = pixels.astype(np.float32)
    narrow, wide = cv2.GaussianBlur(exact, (0, 0), 0.5), cv2.GaussianBlur(exact, (0, 0), 5.0)
    difference = np.min(wide - narrow, axis=2)
    return _to_rgb(np.where(np.clip(difference, 0, 255) * 2 > least, 255, 0))


def _line_art(pixels: Pixels, sigma: float, least: float) -> Pixels:
    """Lines darker than what surrounds them, as white on black."""
    exact = pixels.astype(np.float32)
    darker = np.clip(np.min(cv2.GaussianBlur(exact, (0, 0), sigma) - exact, axis=2), 0, 255)
    dark = darker[darker > least]
    scale = max(16.0, float(np.median(dark)) if dark.size else 16.0)
    return _to_rgb(np.clip(darker / scale * 127, 0, 255))


def _luminance(pixels: Pixels, gamma: float, _second: float) -> Pixels:
    light = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB))[:, :, 0]
    return _to_rgb(np.clip((light / 255.0) ** gamma * 255, 0, 255))


def _intensity(pixels: Pixels, gamma: float, _second: float) -> Pixels:
    return _to_rgb(np.clip((pixels.max(axis=2) / 255.0) ** gamma * 255, 0, 255))


def _to_rgb(grey: NDArray[np.generic]) -> Pixels:
    return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)


WORK: Final[Mapping[str, Work]] = MappingProxyType(
    {
        NONE: lambda pixels, _, __: pixels,
        "canny": _canny,
        "invert": _invert,
        "lineart_standard": _line_art,
        "scribble_xdog": _scribble,
        "threshold": _threshold,
        "tile_resample": _resample,
        "blur_gaussian": _blur,
        "recolor_luminance": _luminance,
        "recolor_intensity": _intensity,
    }
)
