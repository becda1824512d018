"""Fills a cache with all that a model is loaded from: by one process at a time, on from where the last one ended.

The Hub calls a large file's blob by its sha256, so what was received is compared with what the Hub has; a damaged file
is fetched once more. Without torch, but for single files, whose contents decide where their configuration is from.
"""

import fcntl
import hashlib
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from easel_contract.server_config import DType, ModelCacheConfig, ModelConfig, SafetyPolicy

from easel_server.engine.model_cache.copying import copy_objects
from easel_server.engine.model_cache.progress import Progress
from easel_server.engine.model_cache.record import HUB, CacheRecord, read_record, record_path, write_record
from easel_server.engine.model_files.gathering import (
    build_gathering,
    gather_checker,
    gather_model,
    gather_refiner,
)
from easel_server.engine.model_files.hub import Hub
from easel_server.engine.model_files.selection import ModelFileError
from easel_server.engine.model_files.vae import gather_vae
from easel_server.engine.model_files.weight_files import TensorFacts

SHA256_NAME: Final = re.compile(r"[0-9a-f]{64}")
AUTO_ON_GPU: Final = ("bfloat16", "float16")  # which of the two isn't known where there is no GPU
AUTO_ON_CPU: Final = ("float32",)

logger = logging.getLogger(__name__)


def fill_cache(
    config: ModelConfig, progress: Progress, *, hub_token: str | None, hub: Hub | None = None
) -> CacheRecord:
    """Bring what the model's workers load, and compare it with the Hub's hashes. Blocks, also for another that does it.

    ``progress`` is kept up while it works; ``hub`` is how the Hub is asked, for tests of its pauses.
    Raises ModelFileError, and OSError for a volume that can't be written.
    """
    cache = config.cache
    if cache is None or cache.record is None:
        raise ModelFileError("the configuration names no cache to fill; set model.cache")
    with hold(record_path(cache, cache.record).with_suffix(".lock")):
        known = read_record(cache, cache.record)
        if known is not None:
            logger.info(
                "the model cache has %d files already; nothing is downloaded",
                len(known.list_sizes(Path(cache.directory))),
            )
            return known
        record = _fill(config, cache, hub or Hub(hub_token), progress)
        write_record(cache, cache.record, record)
    sizes = record.list_sizes(Path(cache.directory))
    logger.info("the model cache is filled: %d files, %d bytes", len(sizes), sum(sizes.values()))
    return record


def _fill(config: ModelConfig, cache: ModelCacheConfig, hub: Hub, progress: Progress) -> CacheRecord:
    root = (Path(cache.directory) / HUB).resolve()
    for _ in range(2):
        needed = progress.begin(root)
        for copy in cache.copies:
            with hold(record_path(cache, copy.name).with_suffix(".lock")):
                copy_objects(copy, cache, needed)
        needed.are_copied = True
        try:
            _gather_all(config, Hub(hub.token, hub.pause, directory=root, on_needed=needed.add), cache)
        except ModelFileError:  # whose files may be damaged where they are looked into
            damaged = [file for file in find_damaged(needed.sizes, progress) if file.is_file()]
            if not damaged:
                raise
        else:
            damaged = list(find_damaged(needed.sizes, progress))
            if not damaged:
                return needed.to_record()
        for file in damaged:
            logger.warning("%s isn't what the Hub has; it is fetched again", file)
            file.resolve().unlink(missing_ok=True)
            file.unlink(missing_ok=True)
    shown = ", ".join(file.name for file in damaged)
    raise ModelFileError(f"{shown} came damaged twice, other than the Hub's hash says; check the proxy or the mirror")


def _gather_all(config: ModelConfig, hub: Hub, cache: ModelCacheConfig) -> None:
    for dtype in choose_dtypes(config.dtype, is_on_gpu=cache.is_on_gpu):
        how = build_gathering(config, dtype, hub, read_pickle=_read_pickle, find_repository=_find_repository)
        gather_model(config, how)
        if config.vae is not None:
            gather_vae(config.vae, how)
        if config.refiner is not None:
            gather_refiner(config.refiner, how)
    if config.safety_checker is not None and config.safety is not SafetyPolicy.OFF:
        gather_checker(config.safety_checker, hub)


def choose_dtypes(dtype: DType, *, is_on_gpu: bool) -> tuple[str, ...]:
    """The number formats that workers may load the weights as."""
    if dtype is not DType.AUTO:
        return (dtype.lower(),)
    return AUTO_ON_GPU if is_on_gpu else AUTO_ON_CPU


def find_damaged(sizes: Mapping[Path, int], progress: Progress) -> Iterator[Path]:
    """Of files in snapshots, those that don't have their length, or of large ones the Hub's sha256."""
    progress.verified_bytes = 0
    for file, size in sizes.items():
        if _is_whole(file.resolve(), size):
            progress.verified_bytes += size
        else:
            yield file


def _is_whole(blob: Path, size: int) -> bool:
    if not blob.is_file() or blob.stat().st_size != size:
        return False
    if not SHA256_NAME.fullmatch(blob.name):
        return True
    with blob.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == blob.name


@contextmanager
def hold(lock: Path) -> Iterator[None]:
    """Wait until nobody else holds the lock. Raises OSError."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another process fills the model cache (%s); waiting for it", lock)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read_pickle(file: Path) -> Mapping[str, TensorFacts]:
    from easel_server.engine.model_files.single_file import read_pickle  # noqa: PLC0415  # it imports torch

    return read_pickle(file)


def _find_repository(tensors: Mapping[str, TensorFacts]) -> str:
    from easel_server.engine.model_files.single_file import find_repository  # noqa: PLC0415  # it imports torch

    return find_repository(tensors)
