"""Loads a model onto the device that is there. Whatever goes wrong for good becomes one ModelLoadError."""

import logging
import time
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from accelerate import PartialState  # type: ignore[import-untyped]  # it ships no types
from diffusers import DiffusionPipeline
from easel_contract.server_config import DType, ModelConfig
from huggingface_hub.utils.tqdm import disable_progress_bars

from easel_server.engine.diffusers_engine import DiffusersEngine
from easel_server.engine.hub import find_model
from easel_server.engine.interface import EngineDescription, ModelLoadError
from easel_server.engine.processors import choose_threads

TORCH_DTYPES = {DType.FLOAT32: torch.float32, DType.FLOAT16: torch.float16, DType.BFLOAT16: torch.bfloat16}

logger = logging.getLogger(__name__)


def load(config: ModelConfig, *, hub_token: str | None = None) -> DiffusersEngine:
    """The model, ready to draw. Blocks for download, reading and warm-up; call it in a thread.

    Raises ModelLoadError with what to change.
    """
    began = time.monotonic()
    _hush_libraries()
    torch.set_num_threads(choose_threads())
    # accelerate knows every accelerator that torch drives (CUDA, ROCm, XPU, MPS, Gaudi, …), so this is the one place
    # where hardware is looked for.
    device = PartialState().device
    dtype = choose_dtype(config, device)
    directory = find_model(config, token=hub_token)
    pipeline = _read_pipeline(config, directory, device, dtype)
    return DiffusersEngine(
        pipeline,
        EngineDescription(
            engine="diffusers",
            pipeline=type(pipeline).__name__,
            device=str(pipeline.device),
            dtype=str(dtype).removeprefix("torch."),
            model=config.name,
            load_seconds=time.monotonic() - began,
        ),
        directory,
    )


def choose_dtype(config: ModelConfig, device: torch.device) -> torch.dtype:
    """The number format for a device, as DType describes it.

    Raises ModelLoadError for a half-precision format on a CPU: it would draw hundreds of times slower than meant.
    """
    if config.dtype is DType.AUTO:
        if device.type == "cpu":
            return torch.float32
        if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.float16
        return torch.bfloat16 if device.type in {"cuda", "xpu", "hpu"} else torch.float16
    if device.type == "cpu" and config.dtype is not DType.FLOAT32:
        raise ModelLoadError(
            f"model {config.name}: dtype {config.dtype} needs an accelerator, and torch sees none, only the CPU; "
            "check the pod's GPU resource and the node's driver, or set model.dtype to Auto or Float32"
        )
    return TORCH_DTYPES[config.dtype]


def _read_pipeline(config: ModelConfig, directory: Path, device: torch.device, dtype: torch.dtype) -> Any:
    try:
        pipeline = DiffusionPipeline.from_pretrained(directory, dtype=dtype, local_files_only=True)  # type: ignore[no-untyped-call]
        return pipeline.to(device)
    except torch.OutOfMemoryError as error:
        total_gib = torch.cuda.get_device_properties(device).total_memory / 2**30
        raise ModelLoadError(
            f"model {config.name}: out of memory on {device} ({total_gib:.1f} GiB) while loading {config.source} as "
            f"{dtype}; use a GPU with more memory or a smaller model, or set model.dtype to BFloat16 or Float16"
        ) from error
    # The libraries raise most kinds of error for broken files; whichever it is, the files won't change by a restart.
    except Exception as error:
        raise ModelLoadError(
            f"model {config.name}: the files in {directory} can't be read as a diffusers pipeline "
            f"({type(error).__name__}: {_first_line(error)}); download the model again and check model.source"
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no detail"


def _hush_libraries() -> None:
    """No progress bars, and no library messages that quote prompts (diffusers warns of truncation with the text)."""
    disable_progress_bars()
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
