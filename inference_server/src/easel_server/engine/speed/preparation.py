"""What is done to a pipeline once, between its loading and its first job, and to each job's own copy of it.

The order matters: weights are placed first, then caches and compiled blocks go around the denoiser's parts, and the
stepper comes last, around the denoiser itself.

Not done, and why. SDPA is what diffusers runs by itself. Fused QKV projections and tensor cores' TF32 change rounding
for a gain in float32 alone, or none where blocks are compiled. cudnn.benchmark tries out algorithms for each new shape,
and with jobs that join and leave shapes are new all the time.
"""

import os
from collections import ChainMap
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Final

import torch
from easel_contract.server_config import Compilation, EngineConfig, ModelConfig, Offload

from easel_server.engine.interface import ModelLoadError
from easel_server.engine.loading import find_cache_directory
from easel_server.engine.speed.compilation import BlockCompilation
from easel_server.engine.speed.prompt_cache import PromptCache
from easel_server.engine.speed.step_cache import install_step_cache
from easel_server.engine.speed.weights import place

ENV_COMPILED: Final = "TORCHINDUCTOR_CACHE_DIR"  # torch checks what it finds there by a hash of all that matters
CONVOLUTIONAL: Final = ("unet", "vae", "controlnet")


class Preparation:
    """Of one loaded pipeline, for the engine. Everything in the engine's thread."""

    def __init__(
        self,
        prompts: PromptCache | None = None,
        forget: Callable[[], None] | None = None,
        compilations: tuple[BlockCompilation, ...] = (),
    ) -> None:
        """``forget`` drops what a step cache has kept of the last job; None where there is none."""
        self._prompts = prompts if prompts is not None else PromptCache()
        self._forget = forget
        self._compilations = compilations

    @property
    def shares_steps(self) -> bool:
        """Whether jobs may share steps; else each runs from its beginning to its end alone."""
        return self._forget is None

    def attach(
        self,
        pipeline: Any,
        *,
        changes: Hashable = (),
        changing: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """Let a job's own pipeline, before it begins, have what is kept for all and nothing of the last job.

        ``changes`` and ``changing`` are what the job changes in its text encoders, as PromptCache has them.
        """
        self._prompts.attach(pipeline, changes=changes, changing=changing)
        if self._forget is not None:
            self._forget()

    def start_compiling(self) -> None:
        """Once the warm-up has shown what blocks are called with. Returns at once."""
        for compilation in self._compilations:
            compilation.start()

    @contextmanager
    def eagerly(self) -> Iterator[None]:
        """Within, the denoiser runs uncompiled: its bytes don't change with the moment when compiling is done."""
        with ExitStack() as stack:
            for compilation in self._compilations:
                stack.enter_context(compilation.eagerly())
            yield

    @contextmanager
    def opened(self) -> Iterator[Mapping[torch.nn.Module, int]]:
        """Within, what adapters add is asked for by the number of a layer; by others' ``forward`` as they have it."""
        with ExitStack() as stack:
            yield ChainMap(*[stack.enter_context(each.opened()) for each in self._compilations])


def prepare_pipeline(
    pipelines: Sequence[Any], device: torch.device, model: ModelConfig, engine: EngineConfig
) -> Preparation:
    """Place the weights, and install what is configured. Raises ModelLoadError for what doesn't go together.

    ``pipelines`` are the model's and, if it has one, the refiner's, which may share parts.
    """
    _check(model, engine, device)
    if engine.compile is Compilation.ON and (directory := find_cache_directory("compiled")) is not None:
        os.environ.setdefault(ENV_COMPILED, str(directory))
    for pipeline in pipelines:
        place(pipeline, device, model, engine)
        if device.type == "cuda" and engine.offload is Offload.NONE:
            lay_out_channels_last(pipeline)
    forget = install_step_cache(pipelines[0], model.step_cache) if model.step_cache is not None else None
    denoisers = [getattr(pipeline, name, None) for pipeline in pipelines for name in ("unet", "transformer")]
    compilations = (
        tuple(BlockCompilation(denoiser) for denoiser in denoisers if denoiser is not None)
        if engine.compile is Compilation.ON
        else ()
    )
    return Preparation(forget=forget, compilations=compilations)


def lay_out_channels_last(pipeline: Any) -> None:
    """Convolutions' weights as cuDNN's half-precision kernels want them, which else transpose images at each call."""
    for name in CONVOLUTIONAL:
        module = getattr(pipeline, name, None)
        if isinstance(module, torch.nn.Module):
            module.to(memory_format=torch.channels_last)


def _check(model: ModelConfig, engine: EngineConfig, device: torch.device) -> None:
    if engine.compile is Compilation.OFF:
        return
    other = None
    if engine.offload is not Offload.NONE:
        other = "worker.engine.offload Group"
    elif model.step_cache is not None:
        other = f"model.stepCache {model.step_cache}"
    if other is not None:
        raise ModelLoadError(
            f"model {model.name}: worker.engine.compile On and {other} don't go together: what is compiled can't be "
            "held up by either; leave one of them out"
        )
    if device.type == "cpu":
        raise ModelLoadError(
            f"model {model.name}: worker.engine.compile On needs an accelerator, and torch sees none, only the CPU; "
            "set it to Off, or check the pod's GPU resource and the node's driver"
        )
