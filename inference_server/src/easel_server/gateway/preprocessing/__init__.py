"""Control images from images: what ControlNets are held to, made without weights, the same for the same image.

What each does and its thresholds are those of AUTOMATIC1111's ControlNet extension, by its names, at the size of the
image that is generated. Takes time and memory: run it in ``Decoders``.
https://github.com/Mikubill/sd-webui-controlnet/wiki/API
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from PIL import Image

from easel_server.generation.add_ons import ControlType

NONE: Final = "none"


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

    kinds: tuple[str, ...]  # of ControlNets that it is for, as front ends group them
    thresholds: tuple[Threshold, ...] = ()
    makes: ControlType | None = None


def preprocess(name: str, image: Image.Image, thresholds: tuple[float | None, float | None]) -> Image.Image:
    """The control image, RGB, of the image's size. ``name`` is one of PREPROCESSORS; None: its default."""
    chosen = PREPROCESSORS[name]
    filled = [
        own.default if given is None else given for own, given in zip(chosen.thresholds, thresholds, strict=False)
    ]
    first, second = (*filled, 0.0, 0.0)[:2]
    from easel_server.gateway.preprocessing.work import WORK, work_on  # noqa: PLC0415  # a gateway starts without NumPy

    return work_on(image, WORK[name], first, second)


def match_colors(image: Image.Image, like: Image.Image) -> Image.Image:
    """The image with its own lightness and with colours spread as in the other one; both are RGB of any size."""
    from easel_server.gateway.preprocessing.work import match  # noqa: PLC0415  # likewise

    return match(image, like)


def find_threshold_fault(name: str, thresholds: tuple[float | None, float | None]) -> tuple[int, str] | None:
    """Which of the thresholds isn't allowed, and why."""
    known = PREPROCESSORS.get(name, PREPROCESSORS[NONE])  # one with weights has none
    for index, (own, given) in enumerate(zip(known.thresholds, thresholds, strict=False)):
        if given is not None and not own.least <= given <= own.most:
            return index, f"is {given:g}; {own.name} of {name} is allowed from {own.least:g} to {own.most:g}"
    return None


_GAMMA: Final = (Threshold("Gamma Correction", 1.0, 0.1, 2.0),)
PREPROCESSORS: Final[Mapping[str, Preprocessor]] = MappingProxyType(
    {
        NONE: Preprocessor(()),
        "canny": Preprocessor(
            ("Canny",),
            (Threshold("Low Threshold", 100, 1, 255), Threshold("High Threshold", 200, 1, 255)),
            ControlType.HARD_EDGE,
        ),
        "invert": Preprocessor(("Lineart", "Scribble", "MLSD", "SoftEdge", "Canny"), (), ControlType.HARD_EDGE),
        "lineart_standard": Preprocessor(
            ("Lineart",),
            (Threshold("Gaussian Sigma", 6.0, 0.1, 64.0), Threshold("Intensity Threshold", 8, 0, 255)),
            ControlType.HARD_EDGE,
        ),
        "scribble_xdog": Preprocessor(("Scribble",), (Threshold("XDoG Threshold", 32, 1, 64),), ControlType.SOFT_EDGE),
        "threshold": Preprocessor(
            ("Scribble",), (Threshold("Binarization Threshold", 127, 0, 255),), ControlType.SOFT_EDGE
        ),
        "tile_resample": Preprocessor(("Tile",), (Threshold("Down Sampling Rate", 1.0, 1.0, 8.0),), ControlType.TILE),
        "blur_gaussian": Preprocessor(("Tile",), (Threshold("Sigma", 9.0, 0.01, 64.0),), ControlType.BLUR),
        "recolor_luminance": Preprocessor(("Recolor",), _GAMMA, ControlType.GREY),
        "recolor_intensity": Preprocessor(("Recolor",), _GAMMA, ControlType.GREY),
    }
)
