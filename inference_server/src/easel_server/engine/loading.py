"""The door to the engine for code that must not import torch: it is imported when a model is loaded, not before.

What needs no library is decided here: a wrong directory or variable is reported at once, not after importing torch.
"""

import asyncio
import gc
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

from easel_contract import names
from easel_contract.add_ons import DEFAULT_ADD_ON_FILE_BYTES
from easel_contract.metrics import ColdStartPhase
from easel_contract.server_config import EngineConfig, EngineKind, ModelConfig, SyntheticConfig

from easel_server.engine.interface import Engine, ModelLoadError
from easel_server.engine.lean_imports import install_lean_imports
from easel_server.engine.model_files.local import find_model
from easel_server.engine.model_files.selection import ModelFileError
from easel_server.generation.models import read_defaults

ENV_TORCH_THREADS: Final = "EASEL_TORCH_THREADS"
ADD_ONS: Final = "add-ons"  # of the cache: weights from buckets and URLs
BATCH_CAPS: Final = "batch-caps"  # the folder of what was measured of batches
CGROUPS: Final = Path("/sys/fs/cgroup")  # a container sees its own there
PARTS: Final = ("quota", "period")  # of a CPU limit; microseconds

logger = logging.getLogger(__name__)


def load_engine(
    config: ModelConfig,
    *,
    hub_token: str | None,
    engine: EngineConfig | None = None,
    max_batch_images: int | None = None,
    max_add_on_file_bytes: int = DEFAULT_ADD_ON_FILE_BYTES,
    on_phase: Callable[[ColdStartPhase], None] = lambda _phase: None,
) -> Engine:
    """The model, ready to generate. Blocks, also for importing the libraries (some seconds); call it in a thread.

    ``max_batch_images`` is how many images are generated at once; None: as many as are found to pay. ``on_phase`` is
    called with each phase that is over.
    Raises ModelLoadError with what to change.
    """
    if engine is not None and engine.kind is EngineKind.SYNTHETIC:
        loaded = _load_synthetic(config, engine.synthetic)
        on_phase(ColdStartPhase.WEIGHTS)
        return loaded
    began_seconds = time.monotonic()
    directory = find_directory(config)  # before the libraries are imported, which takes longer
    threads = choose_threads()
    import_libraries(directory)
    from easel_server.engine.diffusers_loader import load  # noqa: PLC0415  # a gateway must start without torch

    on_phase(ColdStartPhase.IMPORTED)
    return load(
        config,
        engine if engine is not None else EngineConfig(),
        threads=threads,
        hub_token=hub_token,
        began_seconds=began_seconds,
        max_batch_images=max_batch_images,
        max_add_on_file_bytes=max_add_on_file_bytes,
        on_phase=on_phase,
    )


def _load_synthetic(config: ModelConfig, synthetic: SyntheticConfig) -> Engine:
    """Takes as long as configured. The model may be any name; if it is a directory, its defaults are the model's."""
    began_seconds = time.monotonic()
    from easel_server.engine.synthetic_engine import SyntheticEngine  # noqa: PLC0415  # a gateway needs no Pillow

    time.sleep(synthetic.load_seconds)
    return SyntheticEngine(
        config.name,
        synthetic,
        defaults=read_defaults(Path(config.source)),
        load_seconds=time.monotonic() - began_seconds,
    )


def find_directory(config: ModelConfig) -> Path | None:
    """The directory with the model's configuration, if it is one on this machine. Quick.

    Raises ModelLoadError if the source is a path and no model is there.
    """
    source = Path(config.source)
    if not source.is_absolute():
        return None
    try:
        return find_model(source, allow_pickles=config.allow_pickles).directory
    except ModelFileError as error:
        raise ModelLoadError(f"model {config.name}: {error}") from error


def choose_threads() -> int:
    """Threads for torch on a CPU: EASEL_TORCH_THREADS if set, else one per available CPU.

    Raises ModelLoadError if the variable isn't a whole number of at least 1.
    """
    text = os.environ.get(ENV_TORCH_THREADS)
    if not text:
        return count_processors()
    if not text.isdecimal() or int(text) < 1:
        raise ModelLoadError(f"{ENV_TORCH_THREADS}={text!r}: must be a whole number of at least 1, or unset")
    return int(text)


def count_processors(cgroups: Path = CGROUPS) -> int:
    """CPUs available to this container: the scheduler's affinity, cut to its cgroup's CPU limit. At least 1."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = _read_cpu_limit(cgroups)
    return usable if limit is None else max(1, min(usable, math.ceil(limit)))


def _read_cpu_limit(cgroups: Path) -> float | None:
    """CPUs that the container's cgroup may use, as version 2 or else version 1 has it; None where there is no limit.

    https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files ("max 100000": none), and
    https://docs.kernel.org/scheduler/sched-bwc.html#management (a quota of -1: none). On a hybrid machine both are
    mounted, and version 1 has the CPU.
    """
    try:
        if (unified := cgroups / "cpu.max").exists():
            quota, period = unified.read_text(encoding="ascii").split()
        else:
            quota, period = ((cgroups / "cpu" / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in PARTS)
        return None if quota == "max" or int(quota) < 0 else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def find_cache_directory(kind: str, environment: Mapping[str, str] = os.environ) -> Path | None:
    """The folder for one kind of what a worker makes once and reads at later starts, such as compiled code; made if
    need be. ``kind`` is its name. None where nothing is kept: no directory is named, or nobody may write to it.

    Several workers, of several releases, may share it. Who writes there names the file by all that its content depends
    on (model identity, device, versions of libraries), writes it under another name and renames it, and takes a missing
    or a damaged file for one that is to be made anew.
    """
    root = environment.get(names.ENV_CACHE_DIRECTORY)
    if not root:
        return None
    directory = Path(root) / kind
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logger.warning("nothing is kept for later starts: %s can't be written (%s)", directory, error.strerror)
        return None
    if not os.access(directory, os.W_OK):
        logger.warning("nothing is kept for later starts: %s can't be written by this user", directory)
        return None
    return directory


def import_libraries(directory: Path | None) -> None:
    """Import what loading needs: the libraries, and of them the classes that the model in ``directory`` is made of.

    Starts no thread and touches no device, as far as the libraries let it, so that a process may fork afterwards.
    """
    prepare_libraries()
    was_collecting = gc.isenabled()
    gc.disable()  # what is imported stays: looking for garbage in it takes 6 % of the time
    try:
        import easel_server.engine.diffusers_loader as loader  # noqa: PLC0415  # a gateway must start without torch

        if directory is not None:
            loader.import_model_classes(directory)
    finally:
        if was_collecting:
            gc.enable()


def prepare_libraries() -> None:
    """Set what libraries read while they are imported, and have them import less; to be called before that."""
    # By default OpenMP's threads spin at each barrier. In a container that sees more CPUs than it gets, the spinning
    # keeps the thread that is waited for off the CPU: measured on 2 shared CPUs, 36 s for 10 steps of a tiny model,
    # 0.9 s with passive waiting, 0.2 s with one thread.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # NumPy's and SciPy's own thread pool begins with their import; torch, which does the work, has another.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Counting GPUs must not begin a CUDA context, which no fork survives: NVML is asked instead.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    install_lean_imports()
    logging.getLogger("transformers.utils.import_utils").addFilter(_is_worth_logging)


def _is_worth_logging(record: logging.LogRecord) -> bool:
    # Pipelines name image processors that they don't use for text to image; for those, Pillow's variant is as good.
    return "requires torchvision" not in record.getMessage()


Loaded = TypeVar("Loaded", bound=Engine)


def start_loading(load: Callable[[], Loaded]) -> asyncio.Future[Loaded]:
    """Call ``load`` in a thread; the future has its result or what it raised.

    The thread is a daemon: neither a download nor a driver can be interrupted, and the process must end all the same.
    """
    loop = asyncio.get_running_loop()
    loaded: asyncio.Future[Loaded] = loop.create_future()

    def settle(engine: Loaded | None, error: Exception | None) -> None:
        if loaded.cancelled():
            return
        if engine is not None:
            loaded.set_result(engine)
        elif error is not None:
            loaded.set_exception(error)

    def run() -> None:
        try:
            engine = load()
        except Exception as error:
            report(None, error)
        else:
            report(engine, None)

    def report(engine: Loaded | None, error: Exception | None) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, engine, error)

    threading.Thread(target=run, name="load-model", daemon=True).start()
    return loaded
