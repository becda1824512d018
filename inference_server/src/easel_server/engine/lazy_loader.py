"""The door to the engine for code that must not import torch: it is imported when a model is loaded, not before."""

import logging
import os
import time
from typing import TYPE_CHECKING

from easel_contract.server_config import ModelConfig

from easel_server.engine.model_directory import check_directory, is_directory

if TYPE_CHECKING:
    from easel_server.engine.diffusers_engine import DiffusersEngine


def load_engine(config: ModelConfig, *, hub_token: str | None) -> "DiffusersEngine":
    """As ``loader.load``, after importing the libraries (some seconds). Blocks; call it in a thread."""
    began_seconds = time.monotonic()
    if is_directory(config):
        check_directory(config)
    prepare_libraries()
    # Here, since a gateway must start without loading torch.
    from easel_server.engine.loader import load  # noqa: PLC0415

    return load(config, hub_token=hub_token, began_seconds=began_seconds)


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
