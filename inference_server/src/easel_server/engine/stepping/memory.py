"""Where memory runs out: what failed is free before anything is tried again, and autoencoders go tile by tile."""

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from easel_server.engine.device_errors import is_out_of_memory

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


def attempt(call: Callable[[], Result]) -> tuple[Result, None] | tuple[None, Exception]:
    """What it gives, or what it raised. By the time that this returns, nothing that the failed call held is alive.

    Nobody may try again inside an ``except``: there the error's traceback still has every frame, and each frame its
    tensors. The traceback keeps its lines, for the log.
    """
    try:
        return call(), None
    except Exception as error:
        release_frames(error)
        return None, error


def release_frames(error: BaseException) -> None:
    """Empty the frames of an error and of those that it came from."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__


def free_device_memory() -> None:
    """Give what torch keeps of the device's memory for later back to the device: its pieces may be too small."""
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def tile_where_memory_ends(vae: Any) -> None:
    """Encode and decode tile by tile what doesn't fit at once: it differs a little at the seams.

    Only for shapes that didn't fit once, so that all others keep their pixels.
    """
    if not hasattr(vae, "enable_tiling"):
        return
    tiled: set[tuple[int, ...]] = set()
    for name in ("encode", "decode"):
        setattr(vae, name, _guard(vae, getattr(vae, name), tiled))


def _guard(vae: Any, call: Callable[..., Any], tiled: set[tuple[int, ...]]) -> Callable[..., Any]:
    def run(values: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        shape = tuple(values.shape[1:])
        if shape not in tiled:
            result, error = attempt(lambda: call(values, *arguments, **options))
            if error is None:
                return result
            if not is_out_of_memory(error):
                raise error
            free_device_memory()
            tiled.add(shape)
            logger.warning("the autoencoder works tile by tile from now on for %s: memory ran out", shape)
        with _tiling(vae):
            return call(values, *arguments, **options)

    return run


@contextmanager
def _tiling(vae: Any) -> Iterator[None]:
    was_tiling = getattr(vae, "use_tiling", False)
    vae.enable_tiling()
    try:
        yield
    finally:
        if not was_tiling:
            vae.disable_tiling()
