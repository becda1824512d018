"""Previews: what the latents of a running generation look like, without the autoencoder.

A latent's colour is nearly a linear function of it and of its eight neighbours. Which function, the model's own
autoencoder tells: a few small latents are decoded once, at the first preview, and a convolution from latents to red,
green and blue is fitted to the result by least squares. So there are no tables of numbers for known models, and a
preview costs a convolution and a small PNG instead of a run of the decoder.
"""

import logging
from collections.abc import MutableMapping
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
from PIL import Image
from torch.nn.functional import avg_pool2d, conv2d, interpolate, unfold

from easel_server.generation.encoding import encode
from easel_server.generation.parameters import ImageFormat

logger = logging.getLogger(__name__)

IMAGE_DIMENSIONS: Final = 4  # [images, channels, height, width]
PACKED_DIMENSIONS: Final = 3  # [images, tokens, channels of a token]
PACKED_SIDE: Final = 2  # of pipelines that pack latents into tokens, Flux first, each token is 2 by 2 latents

# Bound on both sides; PREVIEW_SIDE_PIXELS allows more. An image of 1024 pixels has 128 latents a side: a larger preview
# would show nothing more, and its PNG would take three times as long (18 instead of 6 CPU milliseconds).
SIDE_PIXELS: Final = 256
KERNEL_SIDE: Final = 3
SAMPLE_SIDE: Final = 8  # of the latents that are decoded for the fit; four of each fit into the cost of one of 16
EQUATIONS_PER_UNKNOWN: Final = 4
SAMPLE_SEED: Final = 0
RIDGE: Final = 1e-3  # relative to the latents' variance: keeps weights of no consequence small


class PreviewColors:
    """The fitted convolution of one autoencoder."""

    def __init__(self, kernel: torch.Tensor, bias: torch.Tensor) -> None:
        """``kernel``: float32[3, channels, 3, 3] and ``bias``: float32[3], on the autoencoder's device."""
        self._kernel = kernel
        self._bias = bias

    def show(self, latents: torch.Tensor) -> torch.Tensor:
        """Colours from -1 to 1, float32[images, 3, height/8, width/8], of latents as the denoiser has them."""
        padded = torch.nn.functional.pad(latents.float(), (KERNEL_SIDE // 2,) * 4, mode="replicate")
        return conv2d(padded, self._kernel, self._bias).clamp(-1, 1)


# An autoencoder is fitted once a process; one that goes takes its colours along. None: it can't be fitted.
_fitted: MutableMapping[torch.nn.Module, PreviewColors | None] = WeakKeyDictionary()


def build_preview(pipeline: Any, timestep: Any, latents: torch.Tensor, size: tuple[int, int]) -> bytes | None:
    """The first of the images as PNG, SIDE_PIXELS at most; None if these latents can't be shown.

    ``latents``: of the pipeline's dtype and device, as a step has left them, [images, channels, height/8, width/8] or
    packed into tokens; ``timestep`` is that step's. ``size`` is the image's, width and height in pixels.
    """
    vae = getattr(pipeline, "vae", None)
    if vae is None:
        return None
    # Some schedulers keep noise at its own, much larger scale until the end.
    scale = getattr(pipeline.scheduler, "scale_model_input", None)
    plain = _unpack(latents[:1], vae, pipeline.vae_scale_factor, size)
    if plain is None:
        return None
    colors = _find_colors(vae)
    if colors is None or plain.shape[1] != vae.config.latent_channels:
        return None
    shown = colors.show(plain if scale is None else scale(plain, timestep))[0].cpu()
    if not bool(torch.isfinite(shown).all()):
        return None  # what the denoiser has lost is said when the image is decoded
    pixels = shown.add(1).mul(127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return encode(Image.fromarray(pixels).resize(_bound(size), Image.Resampling.BICUBIC), ImageFormat.PNG)


def _bound(size: tuple[int, int]) -> tuple[int, int]:
    """The size of a preview: the image's, or smaller in proportion."""
    shrink = min(1.0, SIDE_PIXELS / max(size))
    return max(1, int(size[0] * shrink)), max(1, int(size[1] * shrink))


def _unpack(latents: torch.Tensor, vae: Any, scale_factor: int, size: tuple[int, int]) -> torch.Tensor | None:
    """As [images, channels, height, width]; None if they are neither that nor tokens of 2 by 2 latents."""
    if latents.ndim == IMAGE_DIMENSIONS:
        return latents
    columns, rows = (side // (scale_factor * PACKED_SIDE) for side in size)
    channels = getattr(vae.config, "latent_channels", 0)
    if latents.ndim != PACKED_DIMENSIONS or latents.shape[1:] != (rows * columns, channels * PACKED_SIDE**2):
        return None
    tokens = latents.view(-1, rows, columns, channels, PACKED_SIDE, PACKED_SIDE)
    return tokens.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, rows * PACKED_SIDE, columns * PACKED_SIDE)


def _find_colors(vae: Any) -> PreviewColors | None:
    if vae in _fitted:
        return _fitted[vae]
    try:
        fitted = fit_colors(vae)
    except torch.OutOfMemoryError:
        logger.warning("no preview: the memory of %s doesn't suffice for it", vae.device)
        return None  # there may be more the next time
    except Exception as error:
        logger.warning("this model has no previews: its autoencoder can't be fitted: %s", error)
        fitted = None
    _fitted[vae] = fitted
    return fitted


def fit_colors(vae: Any) -> PreviewColors:
    """What this autoencoder makes of latents, as far as a convolution can tell. Decodes a few small ones."""
    channels: int = vae.config.latent_channels
    unknowns = channels * KERNEL_SIDE**2 + 1
    latents = _build_samples(channels, -(-EQUATIONS_PER_UNKNOWN * unknowns // SAMPLE_SIDE**2))
    with torch.inference_mode():
        decoded = vae.decode(_to_autoencoder(vae, latents).to(vae.device, vae.dtype), return_dict=False)[0].float()
    colors = avg_pool2d(decoded, decoded.shape[-1] // SAMPLE_SIDE).cpu().double()
    targets = colors.permute(0, 2, 3, 1).reshape(-1, colors.shape[1])
    padded = torch.nn.functional.pad(latents, (KERNEL_SIDE // 2,) * 4, mode="replicate")
    rows = unfold(padded, KERNEL_SIDE).transpose(1, 2).reshape(-1, unknowns - 1).double()
    rows = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
    damping = torch.eye(unknowns, dtype=rows.dtype) * RIDGE * len(rows)
    damping[-1, -1] = 0  # the mean colour may be any
    solution = torch.linalg.solve(rows.T @ rows + damping, rows.T @ targets).float()
    kernel = solution[:-1].T.reshape(-1, channels, KERNEL_SIDE, KERNEL_SIDE)
    return PreviewColors(kernel.contiguous().to(vae.device), solution[-1].to(vae.device))


def _build_samples(channels: int, count: int) -> torch.Tensor:
    """Latents of unit variance with large and small structures, as those of images have: on the CPU, always the same.

    float32[count, channels, 8, 8]
    """
    generator = torch.Generator("cpu").manual_seed(SAMPLE_SEED)
    scales = [
        interpolate(torch.randn(count, channels, side, side, generator=generator), size=SAMPLE_SIDE, mode="bilinear")
        for side in (1, 2, 4, SAMPLE_SIDE)
    ]
    total = torch.stack(scales).sum(dim=0)
    return total / total.std()


def _to_autoencoder(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """As pipelines scale latents before they decode them."""
    config = vae.config
    scaling = getattr(config, "scaling_factor", None) or 1.0
    mean, deviation = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is None or deviation is None:
        return latents / scaling + (getattr(config, "shift_factor", None) or 0.0)
    by_channel = (1, -1, 1, 1)
    return latents * torch.tensor(deviation).view(by_channel) / scaling + torch.tensor(mean).view(by_channel)
