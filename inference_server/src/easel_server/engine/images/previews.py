"""Previews: what the latents of a running generation look like."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import interpolate

from easel_server.engine.interface import PREVIEW_SIDE_PIXELS
from easel_server.generation.encoding import encode
from easel_server.generation.parameters import ImageFormat

logger = logging.getLogger(__name__)

IMAGE_LATENT_DIMENSIONS = 4  # pipelines that pack latents into tokens have three


def decode_previews(pipeline: Any, timestep: Any, latents: torch.Tensor, rows: Sequence[int]) -> list[bytes]:
    """The given rows as PNG, PREVIEW_SIDE_PIXELS at most; empty if the pipeline's latents are no plain images.

    ``latents``: of the pipeline's dtype and device, [batch, channels, height/8, width/8], as a step has left them.
    """
    vae = getattr(pipeline, "vae", None)
    if vae is None or latents.ndim != IMAGE_LATENT_DIMENSIONS:
        return []
    shown = latents[list(rows)]
    # Some schedulers keep noise at its own, much larger scale until the end.
    scale = getattr(pipeline.scheduler, "scale_model_input", None)
    shown = _shrink(shown if scale is None else scale(shown, timestep), pipeline.vae_scale_factor)
    try:
        decoded = _decode(vae, shown)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        logger.warning("no preview: the memory of %s doesn't suffice for it", latents.device)
        return []  # the image itself may still fit, once the denoiser has done its work
    images = pipeline.image_processor.postprocess(decoded, output_type="pil")
    return [encode(image, ImageFormat.PNG) for image in images]


def _decode(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    with _decodable(vae):
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        decoded: torch.Tensor = vae.decode(
            latents.to(vae.dtype) / vae.config.scaling_factor + shift, return_dict=False
        )[0]
    return decoded


def _shrink(latents: torch.Tensor, scale_factor: int) -> torch.Tensor:
    """Before decoding, which takes most of the time and memory."""
    height, width = latents.shape[-2:]
    shrink = PREVIEW_SIDE_PIXELS / (max(height, width) * scale_factor)
    if shrink >= 1:
        return latents
    return interpolate(latents, size=(max(1, int(height * shrink)), max(1, int(width * shrink))), mode="area")


@contextmanager
def _decodable(vae: Any) -> Iterator[None]:
    """Some autoencoders, Stable Diffusion XL's among them, overflow in float16; pipelines decode in float32 too."""
    if vae.dtype != torch.float16 or not getattr(vae.config, "force_upcast", False):
        yield
        return
    vae.to(torch.float32)
    try:
        yield
    finally:
        vae.to(torch.float16)
