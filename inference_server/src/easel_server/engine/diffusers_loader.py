"""Loads a model onto the device that is there. Whatever goes wrong for good becomes one ModelLoadError."""

import logging
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from accelerate import PartialState  # type: ignore[import-untyped]  # it ships no types
from diffusers import DiffusionPipeline
from easel_contract import names
from easel_contract.server_config import DType, ModelConfig
from huggingface_hub.utils.tqdm import disable_progress_bars

from easel_server.engine.diffusers_engine import DiffusersEngine
from easel_server.engine.interface import GenerationError, ModelLoadError, NonFiniteError, build_trial
from easel_server.engine.model_files.content_hash import hash_content
from easel_server.engine.model_files.hub import download_model
from easel_server.generation.models import EngineDescription, read_defaults

LIBRARIES = ("diffusers", "torch", "transformers")  # whose versions may change pixels
TORCH_DTYPES = {DType.FLOAT32: torch.float32, DType.FLOAT16: torch.float16, DType.BFLOAT16: torch.bfloat16}

logger = logging.getLogger(__name__)


def load(
    config: ModelConfig, directory: Path | None, *, threads: int, hub_token: str | None, began_seconds: float
) -> DiffusersEngine:
    """The model, ready to generate. Blocks for download, reading and warm-up; call it in a thread.

    ``directory`` is the model's, None if it comes from the Hub. ``threads`` are torch's on a CPU. ``began_seconds`` (of
    time.monotonic) is where ``load_seconds`` counts from. Raises ModelLoadError with what to change.
    """
    _hush_libraries()
    torch.set_num_threads(threads)
    # accelerate knows every accelerator that torch drives (CUDA, ROCm, XPU, MPS, Gaudi, …), so this is the one place
    # where hardware is looked for.
    device = PartialState().device
    dtype = choose_dtype(config, device)
    files = directory if directory is not None else download_model(config, token=hub_token)
    pipeline, resolved_revision = _read_pipeline(config, files, device, dtype)
    description = EngineDescription(
        engine="diffusers",
        pipeline=type(pipeline).__name__,
        device=str(pipeline.device),
        dtype=str(dtype).removeprefix("torch."),
        model=config.name,
        load_seconds=0.0,
        defaults=read_defaults(files),
        resolved_revision=resolved_revision,
        versions={"easel": version(names.DISTRIBUTION), **{library: version(library) for library in LIBRARIES}},
    )
    engine = DiffusersEngine(pipeline, description)
    _warm_up(engine)
    engine.description = replace(engine.description, load_seconds=time.monotonic() - began_seconds)
    return engine


def _warm_up(engine: DiffusersEngine) -> None:
    """Generate once as a client would by default, with one step: libraries do much at first use, and memory may not do.

    Raises ModelLoadError if even that is not possible.
    """
    try:
        engine.generate([build_trial(engine.description.defaults)], {}, lambda _step: None)
    except NonFiniteError as error:
        # Not for sure a fault of the model: a single step is more than some schedulers can do.
        logger.warning("model %s: one step of a warm-up gave no image: %s", engine.description.model, error)
    except GenerationError as error:
        raise ModelLoadError(
            f"model {engine.description.model} was loaded, but can't generate one image of its default size: {error}; "
            "use a GPU with more memory or a smaller model"
        ) from error


def choose_dtype(config: ModelConfig, device: torch.device) -> torch.dtype:
    """The number format for a device, as DType describes it.

    Raises ModelLoadError for a half-precision format on a CPU: it would generate hundreds of times slower than meant.
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


def _read_pipeline(config: ModelConfig, directory: Path, device: torch.device, dtype: torch.dtype) -> tuple[Any, str]:
    """The pipeline on its device, and which weights it has: the Hub's commit, or the hash of a directory's content."""
    try:
        pipeline = DiffusionPipeline.from_pretrained(directory, dtype=dtype, local_files_only=True)  # type: ignore[no-untyped-call]
        # Before the weights go to the device: not all devices have 64-bit integers.
        is_directory = directory == Path(config.source)
        resolved_revision = hash_content(pipeline, directory) if is_directory else directory.name
        return pipeline.to(device), resolved_revision
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
