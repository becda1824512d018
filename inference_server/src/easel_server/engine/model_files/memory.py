"""Whether a model fits into memory, before a byte of it is loaded: sizes come from the heads of its files. No torch."""

from pathlib import Path
from typing import Final

MEMORY_FILES: Final = Path("/proc/meminfo")
CGROUP: Final = Path("/sys/fs/cgroup")  # version 2


def read_free_host_bytes(cgroup: Path = CGROUP, meminfo: Path = MEMORY_FILES) -> int | None:
    """Bytes that this process may still take: the node's, cut to what its container's limit leaves. None: unknown.

    Pages that only cache files don't count as taken, since the kernel gives them up.
    """
    free = [each for each in (_read_line(meminfo, "MemAvailable:"), _read_left_of_limit(cgroup)) if each is not None]
    return min(free, default=None)


def read_host_bytes(cgroup: Path = CGROUP, meminfo: Path = MEMORY_FILES) -> int | None:
    """Bytes that there are for this process, taken or not: the node's, cut to its container's limit. None: unknown."""
    try:
        limit: int | None = int((cgroup / "memory.max").read_text(encoding="ascii"))  # "max" without one
    except (OSError, ValueError):
        limit = None
    return min((each for each in (_read_line(meminfo, "MemTotal:"), limit) if each is not None), default=None)


def _read_line(meminfo: Path, name: str) -> int | None:
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))
    except (OSError, ValueError, StopIteration, IndexError):
        return None


def _read_left_of_limit(cgroup: Path) -> int | None:
    try:
        limit = int((cgroup / "memory.max").read_text(encoding="ascii"))  # "max" without one
        used = int((cgroup / "memory.current").read_text(encoding="ascii"))
        statistics = dict(line.split() for line in (cgroup / "memory.stat").read_text(encoding="ascii").splitlines())
        cached = int(statistics.get("inactive_file", 0)) + int(statistics.get("active_file", 0))
    except (OSError, ValueError):
        return None
    return max(0, limit - max(0, used - cached))
