"""Step caches: work of an earlier step is taken for this one's. Faster, and another image: only where it is asked for.

DeepCache (https://arxiv.org/abs/2312.00858): what the deep blocks of a UNet give changes slowly from step to step. They
run at every third call; in between, the outermost blocks run on their last results. FirstBlockCache is diffusers' own
(https://huggingface.co/docs/diffusers/optimization/cache): a transformer's blocks after the first one run only where
the first one's result has changed by more than a threshold.

Both keep their state in the denoiser, so jobs can't share its steps, and each job must begin without it.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, Final

import torch
from diffusers.hooks.first_block_cache import FirstBlockCacheConfig
from easel_contract.server_config import StepCache

from easel_server.engine.interface import ModelLoadError

INTERVAL: Final = 3  # calls of the UNet from one in full to the next
FIRST_BLOCK_THRESHOLD: Final = 0.05  # diffusers' default


def install_step_cache(pipeline: Any, kind: StepCache) -> Callable[[], None]:
    """Switch it on; the function forgets all state, for the next job. Raises ModelLoadError for a model without."""
    name = type(pipeline).__name__
    if kind is StepCache.DEEP_CACHE:
        unet = getattr(pipeline, "unet", None)
        if unet is None or not hasattr(unet, "up_blocks") or len(unet.up_blocks) < 2:
            raise ModelLoadError(
                f"{name} has no UNet that step cache {kind} works with; leave model.stepCache out, or set "
                f"{StepCache.FIRST_BLOCK_CACHE} for Flux"
            )
        return DeepCache(unet).reset
    transformer = getattr(pipeline, "transformer", None)
    if transformer is None or not hasattr(transformer, "enable_cache"):
        raise ModelLoadError(
            f"{name} has no transformer that step cache {kind} works with; leave model.stepCache out, or set "
            f"{StepCache.DEEP_CACHE} for models with a UNet"
        )
    transformer.enable_cache(FirstBlockCacheConfig(threshold=FIRST_BLOCK_THRESHOLD))
    reset: Callable[[], None] = transformer._reset_stateful_cache
    return reset


class DeepCache:
    """The blocks of one UNet but for the outermost, whose results are kept from one call in full to the next.

    Calls of one timestep are parts of one step, such as images that don't fit into memory at once: each has its own.
    """

    def __init__(self, unet: Any) -> None:
        """Calls of it and of its blocks come here from now on."""
        self._kept: dict[tuple[torch.nn.Module, int], tuple[torch.Size, Any]] = {}
        self._timestep: float | None = None
        self._steps = self._part = 0
        self._attach(unet)
        for block in (*unet.down_blocks[1:], unet.mid_block, *unet.up_blocks[:-1]):
            if block is not None:
                self._attach_block(block)

    def reset(self) -> None:
        """The next call runs in full."""
        self._kept.clear()
        self._timestep, self._steps = None, 0

    def _attach(self, unet: Any) -> None:
        forward = unet.forward
        signature = inspect.signature(forward)

        @wraps(forward)
        def count_and_run(*arguments: Any, **options: Any) -> Any:
            timestep = torch.as_tensor(signature.bind(*arguments, **options).arguments["timestep"])
            self._count(float(timestep.flatten()[0]))
            return forward(*arguments, **options)

        unet.forward = count_and_run

    def _count(self, timestep: float) -> None:
        if timestep == self._timestep:
            self._part += 1
            return
        if self._steps % INTERVAL == 0:
            self._kept.clear()
        self._timestep, self._part = timestep, 0
        self._steps += 1

    def _attach_block(self, block: torch.nn.Module) -> None:
        forward = block.forward
        first = next(iter(inspect.signature(forward).parameters))  # what enters it

        def run_or_recall(*arguments: Any, **options: Any) -> Any:
            entering: torch.Tensor = arguments[0] if arguments else options[first]
            shape, result = self._kept.get((block, self._part), (None, None))
            if shape != entering.shape:
                result = forward(*arguments, **options)
                self._kept[block, self._part] = (entering.shape, result)
            return result

        block.forward = run_or_recall
