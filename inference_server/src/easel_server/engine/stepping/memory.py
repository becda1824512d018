"""Where memory runs out: what failed is free before anything is tried again."""

import traceback
from collections.abc import Callable
from typing import TypeVar

import torch

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
