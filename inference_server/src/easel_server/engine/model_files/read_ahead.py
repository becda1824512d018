"""Reads a model's weights into the page cache while the process still imports libraries. Imports no torch.

Nothing depends on it: a file that can't be read is left to whoever loads it, who says so.
"""

import json
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from easel_contract.server_config import DType

from easel_server.engine.model_files.local import find_model, list_sizes
from easel_server.engine.model_files.memory import read_free_host_bytes
from easel_server.engine.model_files.selection import ModelFileError, choose_files
from easel_server.generation.models import MODEL_INDEX

CHUNK_BYTES: Final = 8 << 20
MAX_THREADS: Final = 4  # network disks need more than one request in flight; more would only compete with the imports
DEVICES: Final = (Path("/dev/nvidia0"), Path("/dev/kfd"), Path("/dev/accel"))  # NVIDIA's, AMD's, others' drivers
MAX_SHARE_OF_MEMORY: Final = 0.5  # of what is free: pages that are read too early would be given up again


class ReadAhead:
    """Files that are being read, until they are or ``stop`` is called."""

    def __init__(self, files: Iterable[Path], *, max_bytes: int) -> None:
        self._files = list(files)
        self._left_bytes = max_bytes
        self._lock = threading.Lock()
        self._is_stopped = threading.Event()
        self.read_bytes = 0
        count = min(MAX_THREADS, len(self._files))
        # Daemons: a disk that hangs must not keep the process from ending.
        self._threads = [threading.Thread(target=self._read, name="read-ahead", daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Read no further; returns at once."""
        self._is_stopped.set()

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Until all is read; whether it is."""
        for thread in self._threads:
            thread.join(timeout_seconds)
        return not any(thread.is_alive() for thread in self._threads)

    def _read(self) -> None:
        while (file := self._take()) is not None:
            try:
                self._read_file(file)
            except OSError:
                continue

    def _take(self) -> Path | None:
        with self._lock:
            return self._files.pop(0) if self._files and not self._is_stopped.is_set() else None

    def _read_file(self, file: Path) -> None:
        buffer = bytearray(CHUNK_BYTES)
        descriptor = os.open(file, os.O_RDONLY)
        try:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            while self._reserve() and not self._is_stopped.is_set():
                # Without the interpreter's lock, so the imports go on meanwhile.
                count = os.readv(descriptor, [buffer])
                if count == 0:
                    return
                with self._lock:
                    self.read_bytes += count
        finally:
            os.close(descriptor)

    def _reserve(self) -> bool:
        with self._lock:
            if self._left_bytes < CHUNK_BYTES:
                return False
            self._left_bytes -= CHUNK_BYTES
            return True


def read_ahead(source: Path, *, dtype: DType = DType.AUTO, devices: Iterable[Path] = DEVICES) -> ReadAhead | None:
    """Begin to read the weights of a directory or a single file on this machine; None where there are none.

    Of a pipeline's files those that will be loaded, as far as is known without torch: where there is an accelerator (a
    file of ``devices``), the narrow ones. The largest come first, since they take longest. Half of the free memory is
    filled at most. Quick: threads do the reading.
    """
    free = read_free_host_bytes()
    if not source.is_absolute() or free is None:
        return None
    if dtype is DType.AUTO:
        dtype = DType.BFLOAT16 if any(device.exists() for device in devices) else DType.FLOAT32
    try:
        model = find_model(source, allow_pickles=True)  # whether they may be loaded is asked there
        files = [model.file] if model.file is not None else []
        if model.file is None and model.directory is not None:
            index = json.loads((model.directory / MODEL_INDEX).read_text(encoding="utf-8"))
            selection = choose_files(
                index,
                list_sizes(model.directory),
                variant=None,
                dtype=dtype.value.lower(),
                allow_pickles=True,
            )
            files = [model.directory / file for each in selection.weights.values() for file in each]
        files.sort(key=lambda file: -file.stat().st_size)
    except (ModelFileError, OSError, ValueError, AttributeError):
        return None  # loading says what is wrong
    return ReadAhead(files, max_bytes=int(free * MAX_SHARE_OF_MEMORY)) if files else None
