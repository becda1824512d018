"""How many CPUs this process may use. Imports no torch."""

import math
import os
from pathlib import Path

ENV_TORCH_THREADS = "EASEL_TORCH_THREADS"
CPU_QUOTA_FILE = Path("/sys/fs/cgroup/cpu.max")  # cgroup v2: "<quota> <period>" in microseconds, or "max <period>"


def count_processors(quota_file: Path = CPU_QUOTA_FILE) -> int:
    """CPUs available to this container: the scheduler's affinity, cut to the cgroup's CPU limit. At least 1."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = quota_file.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return usable
    if quota == "max":
        return usable
    return max(1, min(usable, math.ceil(int(quota) / int(period))))


def choose_threads() -> int:
    """Threads for torch on a CPU: EASEL_TORCH_THREADS if set, else one per available CPU.

    Raises ValueError if the variable isn't a whole number of at least 1.
    """
    text = os.environ.get(ENV_TORCH_THREADS)
    if not text:
        return count_processors()
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{ENV_TORCH_THREADS}={text!r}: must be a whole number of at least 1, or unset")
    return int(text)
