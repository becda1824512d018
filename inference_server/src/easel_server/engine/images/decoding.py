"""Decoding of latents, looked at: an image of numbers that aren't finite would come out black, and pass for a success.

what the autoencoder gives                     what follows
--------------------------                     ------------
finite numbers                                 the image
not finite, or one value all over, in half     once more in float32: some autoencoders overflow in float16, the first of
precision                                      Stable Diffusion XL among them
not finite in float32, or of latents that      NonFiniteError, with advice: what the denoiser has lost no autoencoder
weren't finite before                          brings back
one value all over in float32                  the image: somebody may have asked for a black square

So blackness alone is never an error; it is only looked at twice. Here, since each family of pipelines calls
``vae.decode`` in its own way, previews too.
"""

import logging
from collections.abc import Callable
from typing import Any, Final

import torch

from easel_server.engine.interface import NonFiniteError

HALF: Final = (torch.float16, torch.bfloat16)
ADVICE: Final = {
    torch.float16: "whoever runs this service sets model.dtype to BFloat16 or Float32",
    torch.bfloat16: "whoever runs this service sets model.dtype to Float32",
}
OTHER_ADVICE: Final = "lower the guidance scale if it is high; else the model's files may be damaged"

logger = logging.getLogger(__name__)


def guard_decoding(vae: Any, dtype: torch.dtype) -> None:
    """Look at all that this autoencoder decodes from now on. ``dtype`` is the denoiser's, for the advice."""
    decode: Callable[..., Any] = vae.decode
    is_float32_needed = False

    def decode_and_look(latents: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        nonlocal is_float32_needed
        if not _is_finite(latents):
            raise NonFiniteError(_describe("the denoiser", dtype))
        if not is_float32_needed:
            decoded = decode(latents, *arguments, **options)
            if not _is_suspect(_sample_of(decoded), vae.dtype):
                return decoded
        decoded, own = _decode_in_float32(vae, decode, latents, arguments, options)
        if not _is_finite(_sample_of(decoded)):
            raise NonFiniteError(_describe("the autoencoder", dtype))
        if own in HALF and not is_float32_needed and not _is_constant(_sample_of(decoded)):
            logger.warning("the autoencoder overflows in %s: images are decoded in float32 from now on", own)
            is_float32_needed = True
        return decoded

    vae.decode = decode_and_look


def _decode_in_float32(
    vae: Any, decode: Callable[..., Any], latents: torch.Tensor, arguments: tuple[Any, ...], options: dict[str, Any]
) -> tuple[Any, torch.dtype]:
    """What it gives in float32, and the dtype that it is in again afterwards: pipelines encode in that."""
    own: torch.dtype = vae.dtype
    vae.to(torch.float32)
    try:
        return decode(latents.to(torch.float32), *arguments, **options), own
    finally:
        vae.to(own)


def _sample_of(decoded: Any) -> torch.Tensor:
    sample: torch.Tensor = decoded[0] if isinstance(decoded, tuple) else decoded.sample
    return sample


def _is_finite(numbers: torch.Tensor) -> bool:
    return bool(torch.isfinite(numbers).all())


def _is_constant(numbers: torch.Tensor) -> bool:
    return bool(numbers.amax() == numbers.amin())


def _is_suspect(sample: torch.Tensor, dtype: torch.dtype) -> bool:
    return not _is_finite(sample) or (dtype in HALF and _is_constant(sample))


def _describe(part: str, dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    return (
        f"{part} gave numbers that aren't finite in {name}, so the image would be black; "
        f"{ADVICE.get(dtype, OTHER_ADVICE)}"
    )
