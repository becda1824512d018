"""Loads a model onto the device that is there. Whatever goes wrong for good becomes one ModelLoadError."""

import contextlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import diffusers
import torch
import transformers
from accelerate import PartialState  # type: ignore[import-untyped]  # it ships no types
from easel_contract import names
from easel_contract.add_ons import DEFAULT_ADD_ON_FILE_BYTES
from easel_contract.metrics import ColdStartPhase
from easel_contract.server_config import DType, EngineConfig, ModelConfig, SafetyPolicy
from huggingface_hub.utils.tqdm import disable_progress_bars

from easel_server.engine.add_ons.files import AddOnFiles, Bounds
from easel_server.engine.add_ons.residency import Residency, choose_budgets
from easel_server.engine.diffusers_engine import DiffusersEngine
from easel_server.engine.images.safety import take_safety
from easel_server.engine.images.safety_models import load_safety_checker
from easel_server.engine.interface import (
    ContentRefusedError,
    GenerationError,
    ModelLoadError,
    NonFiniteError,
    build_trial,
    generate_alone,
)
from easel_server.engine.loading import ADD_ONS, BATCH_CAPS, find_cache_directory
from easel_server.engine.model_cache.record import open_cache
from easel_server.engine.model_files.gathering import gather_model
from easel_server.engine.model_files.hub import Hub
from easel_server.engine.model_files.pipelines import LoadedPipeline, build_gathering, load_pipeline, load_refiner
from easel_server.engine.model_files.selection import ModelFileError
from easel_server.engine.model_files.vae import gather_vae
from easel_server.engine.speed.preparation import prepare_pipeline
from easel_server.engine.speed.weights import is_placed_late
from easel_server.generation.models import (
    MODEL_INDEX,
    EngineDescription,
    describe_scheduler_config,
    name_vae,
    read_defaults,
)
from easel_server.generation.tasks import TASKS

IMPORTED_LIBRARIES = ("diffusers", "transformers")
LIBRARIES = ("diffusers", "torch", "transformers")  # whose versions may change pixels
PROCESSORS_FILE = Path("/proc/cpuinfo")
BFLOAT16_FEATURES = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # Intel's and AMD's, Intel's, Arm's
TORCH_DTYPES = {DType.FLOAT32: torch.float32, DType.FLOAT16: torch.float16, DType.BFLOAT16: torch.bfloat16}


logger = logging.getLogger(__name__)


def load(
    config: ModelConfig,
    engine: EngineConfig,
    *,
    threads: int,
    hub_token: str | None,
    began_seconds: float,
    max_batch_images: int | None = None,
    max_add_on_file_bytes: int = DEFAULT_ADD_ON_FILE_BYTES,
    on_phase: Callable[[ColdStartPhase], None] = lambda _phase: None,
) -> DiffusersEngine:
    """The model, ready to generate. Blocks for download, reading and warm-up; call it in a thread.

    ``threads`` are torch's on a CPU. ``began_seconds`` (of time.monotonic) is where ``load_seconds`` counts from.
    ``max_batch_images`` is as DiffusersEngine has it. Raises ModelLoadError with what to change.
    """
    _hush_libraries()
    torch.set_num_threads(threads)
    # accelerate knows every accelerator that torch drives (CUDA, ROCm, XPU, MPS, Gaudi, …), so this is the one place
    # where hardware is looked for.
    device = PartialState().device
    dtype = choose_dtype(config, device)
    try:
        how = build_gathering(config, dtype, open_cache(config.cache, hub_token))
        model = gather_model(config, how)
        vae = gather_vae(config.vae, how) if config.vae is not None else None
        first = torch.device("cpu") if is_placed_late(config, engine) else device
        loaded = load_pipeline(config, model, first, dtype, vae)
        refiner = load_refiner(config.refiner, how, loaded, first, dtype) if config.refiner is not None else None
    except ModelFileError as error:
        raise ModelLoadError(f"model {config.name}: {error}") from error
    checker = config.safety_checker if config.safety is not SafetyPolicy.OFF else None
    named = load_safety_checker(checker, how.hub, device) if checker is not None else None
    on_phase(ColdStartPhase.WEIGHTS)
    safety = take_safety(loaded.pipeline, config.safety, model=config.name, named=named)
    description = replace(
        _describe(config, loaded, model.directory, device, dtype),
        files=model.files,
        vae=loaded.vae,
        vae_name=name_vae(config) or "",
        refiner=refiner.weights if refiner is not None else "",
        safety=safety.description,
    )
    pipelines = [loaded.pipeline, *([refiner.pipeline] if refiner is not None else [])]
    preparation = prepare_pipeline(pipelines, device, config, engine)
    ready = DiffusersEngine(
        loaded.pipeline,
        description,
        refiner=refiner.pipeline if refiner is not None else None,
        max_batch_images=max_batch_images,
        safety=safety,
        preparation=preparation,
        scheduler=config.scheduler,
        residency=Residency(device, *choose_budgets(device, engine.add_on_memory)),
        add_on_files=AddOnFiles(
            find_cache_directory(ADD_ONS), Hub(hub_token), Bounds(max_file_bytes=max_add_on_file_bytes)
        ),
    )
    on_phase(ColdStartPhase.COMPILED)
    _warm_up(ready)
    ready.measure_batch_cap(find_cache_directory(BATCH_CAPS))
    preparation.start_compiling()
    ready.description = replace(ready.description, load_seconds=time.monotonic() - began_seconds)
    return ready


def _describe(
    config: ModelConfig, loaded: LoadedPipeline, directory: Path, device: torch.device, dtype: torch.dtype
) -> EngineDescription:
    """What a pipeline and its configuration say by themselves."""
    return EngineDescription(
        engine="diffusers",
        pipeline=type(loaded.pipeline).__name__,
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        model=config.name,
        load_seconds=0.0,
        defaults=read_defaults(directory),
        resolved_revision=loaded.weights,
        quantization=config.quantization or "",
        step_cache=config.step_cache or "",
        scheduler=describe_scheduler_config(config.scheduler),
        versions={"easel": version(names.DISTRIBUTION), **{library: version(library) for library in LIBRARIES}},
    )


def import_model_classes(directory: Path) -> None:
    """Import the classes that the pipeline in a directory is made of, and those that it serves other tasks with.

    What can't be imported is left to ``load``, which says so.
    """
    try:
        index = json.loads((directory / MODEL_INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    parts = [tuple(part) for part in index.values() if isinstance(part, list) and len(part) == 2]
    parts += [("diffusers", index.get("_class_name"))]
    parts += [("diffusers", definition.pipeline) for definition in TASKS.values()]
    for library, name in parts:
        if library in IMPORTED_LIBRARIES and isinstance(name, str):
            with contextlib.suppress(ImportError, AttributeError, RuntimeError):  # as their lazy modules say it
                getattr(import_module(library), name)


def _warm_up(engine: DiffusersEngine) -> None:
    """Generate once as a client would by default, with one step: libraries do much at first use, and memory may not do.

    Raises ModelLoadError if even that is not possible.
    """
    try:
        generate_alone(engine, build_trial(engine.description.defaults))
    except NonFiniteError as error:
        # Not for sure a fault of the model: a single step is more than some schedulers can do.
        logger.warning("model %s: one step of a warm-up gave no image: %s", engine.description.model, error)
    except ContentRefusedError:
        pass  # it ran: what one step leaves may look like anything
    except GenerationError as error:
        raise ModelLoadError(
            f"model {engine.description.model} was loaded, but can't generate one image of its default size: {error}; "
            "use a GPU with more memory or a smaller model"
        ) from error


def choose_dtype(config: ModelConfig, device: torch.device) -> torch.dtype:
    """The number format for a device, as DType describes it.

    Raises ModelLoadError for one that the device has not, or only emulates, hundreds of times slower than meant.
    """
    has_bfloat16 = _has_bfloat16(device)
    if config.dtype is DType.AUTO:
        if device.type == "cpu":
            return torch.float32
        return torch.bfloat16 if device.type in {"cuda", "xpu", "hpu"} and has_bfloat16 else torch.float16
    if device.type == "cpu" and config.dtype is DType.FLOAT16:
        raise ModelLoadError(
            f"model {config.name}: dtype Float16 needs an accelerator, and torch sees none, only the CPU; check the "
            "pod's GPU resource and the node's driver, or set model.dtype to Auto or Float32"
            + (", or to BFloat16, which this processor has" if has_bfloat16 else "")
        )
    if config.dtype is DType.BFLOAT16 and not has_bfloat16:
        where = "an accelerator, and torch sees none, only the CPU, which" if device.type == "cpu" else f"what {device}"
        raise ModelLoadError(
            f"model {config.name}: dtype BFloat16 needs {where} lacks (of processors those with avx512_bf16, amx_bf16 "
            "or Arm's bf16 have it; of NVIDIA's GPUs, those of 2020 and later); check the pod's GPU resource and the "
            "node's driver, or set model.dtype to Auto or Float32"
        )
    return TORCH_DTYPES[config.dtype]


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type != "cpu" or has_cpu_bfloat16()


def has_cpu_bfloat16(processors: Path = PROCESSORS_FILE) -> bool:
    """Whether the processor multiplies bfloat16 itself, by the features that the kernel lists."""
    try:
        lines = processors.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    features = {word for line in lines if line.lower().startswith(("flags", "features")) for word in line.split()}
    return bool(features & BFLOAT16_FEATURES)


def _hush_libraries() -> None:
    """No progress bars, and no library messages that quote prompts (diffusers warns of truncation with the text)."""
    disable_progress_bars()
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
