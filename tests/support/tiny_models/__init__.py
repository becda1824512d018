"""Real pipelines of all families, a few megabytes each, with random weights from a fixed seed.

The classes, the blocks and their order are those of the published models; only widths, depths of the text encoders and
the vocabulary are small. So everything that a real checkpoint goes through (download layout, loading, dtype, device,
denoising, decoding) is gone through, in milliseconds a step on a CPU. The images are noise.

Schedulers come as real repositories have them (``bare=False``), or with no field but those that make the noise, as in
some repositories that were converted by hand (``bare=True``).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from tests.support.tiny_models.adapters import write_lora
from tests.support.tiny_models.parts import build_t5_tokenizer, build_tokenizer
from tests.support.tiny_models.transformers import (
    build_flux,
    build_flux_schnell,
    build_pixart_alpha,
    build_pixart_sigma,
    build_sd3,
)
from tests.support.tiny_models.unets import (
    build_controlnet,
    build_lcm,
    build_sd2,
    build_sd15,
    build_sd15_controlnet,
    build_sd_turbo,
    build_sdxl,
    build_sdxl_controlnet,
    build_sdxl_refiner,
    build_sdxl_turbo,
    build_union_controlnet,
)
from tests.support.tiny_models.upscalers import write_tiny_upscaler

__all__ = [
    "BUILDERS",
    "build_controlnet",
    "build_flux",
    "build_flux_schnell",
    "build_lcm",
    "build_pixart_alpha",
    "build_pixart_sigma",
    "build_sd2",
    "build_sd3",
    "build_sd15",
    "build_sd15_controlnet",
    "build_sd_turbo",
    "build_sdxl",
    "build_sdxl_controlnet",
    "build_sdxl_refiner",
    "build_sdxl_turbo",
    "build_t5_tokenizer",
    "build_tokenizer",
    "build_union_controlnet",
    "write_tiny_add_ons",
    "write_tiny_model",
    "write_tiny_models",
]

BUILDERS: Final[Mapping[str, Callable[..., Any]]] = MappingProxyType(
    {
        "sd15": build_sd15,
        "sd2": build_sd2,
        "sd-turbo": build_sd_turbo,
        "lcm": build_lcm,
        "sdxl": build_sdxl,
        "sdxl-refiner": build_sdxl_refiner,
        "sdxl-turbo": build_sdxl_turbo,
        "sd3": build_sd3,
        "flux": build_flux,
        "flux-schnell": build_flux_schnell,
        "pixart-alpha": build_pixart_alpha,
        "pixart-sigma": build_pixart_sigma,
    }
)
WRITTEN: Final = ("sd15", "sdxl")  # what most tests load


def write_tiny_model(directory: Path, name: str) -> None:
    """Write one of ``BUILDERS`` into the directory, in diffusers' own layout with safetensors weights."""
    BUILDERS[name]().save_pretrained(directory, safe_serialization=True)


def write_tiny_models(directory: Path) -> None:
    """Write ``sd15/`` and ``sdxl/`` below the directory, and of the first ``add-ons/``."""
    for name in WRITTEN:
        write_tiny_model(directory / name, name)
    write_tiny_add_ons(directory / "add-ons")


def write_tiny_add_ons(directory: Path) -> None:
    """An adapter, a ControlNet and an upscaler for ``sd15``: ``ink.safetensors``, ``canny/``, ``sharp.safetensors``."""
    pipeline: Any = build_sd15_controlnet()
    pipeline.controlnet.save_pretrained(directory / "canny", safe_serialization=True)
    write_lora(directory / "ink.safetensors", pipeline)
    write_tiny_upscaler(directory / "sharp.safetensors", scale=2)
