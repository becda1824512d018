"""What a worker's start is made of: from the process's beginning to Ready, in phases that follow each other."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from easel_contract.metrics import ColdStartPhase

STAT_FILE: Final = Path("/proc/self/stat")
START_TIME_FIELD: Final = 19  # of those behind the command's name, from 0; in clock ticks since boot: proc(5)


class WorkerStart:
    """Measures one start. Phases may be marked from any thread; each ends where the next one begins."""

    def __init__(
        self,
        began_seconds: float,
        *,
        restarts: int = 0,
        on_ready: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``began_seconds``: when it began, by ``clock``. ``restarts``: workers that ended before in this container."""
        self._clock = clock
        self._last_seconds = began_seconds
        self._on_ready = on_ready
        self.restarts = restarts
        self.phase_seconds: dict[ColdStartPhase, float] = {}

    def mark(self, phase: ColdStartPhase) -> None:
        """The phase is over. Counts once: what a process does again later isn't its start."""
        if phase not in self.phase_seconds:
            now_seconds = self._clock()
            self.phase_seconds[phase] = max(0.0, now_seconds - self._last_seconds)
            self._last_seconds = now_seconds

    def finish(self) -> None:
        """The worker is ready."""
        self.mark(ColdStartPhase.WARM)
        self._on_ready()


def begin_with_process() -> WorkerStart:
    """A start that began with this process."""
    return WorkerStart(read_process_start_seconds())


def read_process_start_seconds(stat_file: Path = STAT_FILE) -> float:
    """When this process began, by time.monotonic: before its interpreter did anything. Now, where no system says it.

    To a hundredth of a second, the kernel's clock tick.
    """
    try:
        fields = stat_file.read_text(encoding="utf-8").rpartition(")")[2].split()
        since_boot_seconds = int(fields[START_TIME_FIELD]) / os.sysconf("SC_CLK_TCK")
        age_seconds = time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot_seconds
    except (OSError, ValueError, IndexError, AttributeError):
        age_seconds = 0.0
    return time.monotonic() - max(0.0, age_seconds)
