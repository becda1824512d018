"""The door to the engine for code that must not import torch: it is imported when a model is loaded, not before."""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from easel_contract.server_config import EngineConfig, EngineKind, ModelConfig, SyntheticConfig

from easel_server.engine.interface import Engine
from easel_server.engine.model_directory import check_directory, is_directory
from easel_server.generation.models import read_defaults


def load_engine(config: ModelConfig, *, hub_token: str | None, engine: EngineConfig | None = None) -> Engine:
    """The model, ready to draw. Blocks, also for importing the libraries (some seconds); call it in a thread.

    Raises ModelLoadError with what to change.
    """
    if engine is not None and engine.kind is EngineKind.SYNTHETIC:
        return _load_synthetic(config, engine.synthetic)
    began_seconds = time.monotonic()
    if is_directory(config):
        check_directory(config)
    prepare_libraries()
    # Here, since a gateway must start without loading torch.
    from easel_server.engine.loader import load  # noqa: PLC0415

    return load(config, hub_token=hub_token, began_seconds=began_seconds)


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


def prepare_libraries() -> None:
    """Set what torch and transformers read while they are imported; to be called before that."""
    # By default OpenMP's threads spin at each barrier. In a container that sees more CPUs than it gets, the spinning
    # keeps the thread that is waited for off the CPU: measured on 2 shared CPUs, 36 s for 10 steps of a tiny model,
    # 0.9 s with passive waiting, 0.2 s with one thread.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
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
