"""Reads a model's weights into the page cache while the process still imports libraries. Imports no torch.

Nothing depends on it: a file that can't be read is left to whoever loads it, who says so.
"""

import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from easel_server.engine.model_files.memory import read_free_host_bytes
from easel_server.engine.model_files.weight_files import WEIGHT_SUFFIXES

CHUNK_BYTES: Final = 8 << 20
MAX_THREADS: Final = 4  # network disks need more than one request in flight; more would only compete with the imports
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


def read_ahead(source: Path) -> ReadAhead | None:
    """Begin to read the weights of a directory (also those right below it) or a single file; None if there are none.

    Of memory that is free at most half is filled; the largest files come first, since they take longest.
    """
    try:
        if source.is_file():
            files = [source]
        else:
            found = (file for pattern in ("*", "*/*") for file in source.glob(pattern))
            files = [file for file in found if file.suffix.lower() in WEIGHT_SUFFIXES and file.is_file()]
        files.sort(key=lambda file: -file.stat().st_size)
    except OSError:
        return None
    free = read_free_host_bytes()
    if not files or free is None:
        return None
    return ReadAhead(files, max_bytes=int(free * MAX_SHARE_OF_MEMORY))
