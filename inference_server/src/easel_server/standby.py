"""A worker's standby: the process that has imported its libraries, and serves from a child that it forks.

```
standby   imports torch and diffusers ──> fork ──> waits ──────────────> fork ──> waits …
reader    └ weights into the page cache    │                              │
worker                                     └ load, serve, end (70) ──X    └ load, serve …
```

When the worker ends because its engine failed, another one is forked at once: the imports are paid, the weights are in
the page cache, and the GPU is free again, since only the child ever used it. Every other end is the container's end,
with the same code: Kubernetes' own restarts, their back-off and their messages go on meaning what they mean.

What the standby may do before it forks is little: no thread, no device. A forked copy of a library that has a thread
pool or a CUDA context doesn't work. Where a library broke that, everything is served in this one process.
"""

import contextlib
import ctypes
import gc
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

from easel_contract import names
from easel_contract.metrics import ColdStartPhase
from easel_contract.server_config import EngineKind

from easel_server.config import Role, Settings
from easel_server.engine.interface import ModelLoadError
from easel_server.engine.loading import find_directory, import_libraries
from easel_server.engine.model_files.read_ahead import read_ahead
from easel_server.start import ENDING_SIGNALS, end_at_once_on_signals, report_end, write_termination_log
from easel_server.telemetry.logs import configure_logging
from easel_server.telemetry.worker_start import WorkerStart, read_process_start_seconds

RESTART_SECONDS: Final = 300.0  # a worker that ends twice within that is Kubernetes' to restart, which backs off
CRASHES: Final = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL})
SIGNAL_CODES: Final = 128  # and the signal's number: what a shell says of a process that a signal has ended
# Device files that a driver opens for a context, and not for counting devices, which a fork survives (NVML).
CONTEXT_FILES: Final = ("/dev/nvidia-uvm", "/dev/kfd", "/dev/dri/", "/dev/accel", "/dev/davinci")
PR_SET_PDEATHSIG: Final = 1  # prctl(2)
READY: Final = b"r"

logger = logging.getLogger(__name__)


def has_standby(settings: Settings) -> bool:
    """Whether a process is to serve from a child: a worker whose libraries take seconds to import."""
    is_slow = settings.role is Role.WORKER and settings.config.engine.kind is EngineKind.DIFFUSERS
    return is_slow and sys.platform == "linux"


def serve_from_standby(settings: Settings) -> int:
    """Import the libraries and serve in children until a signal, or an end that is the container's; the exit code."""
    configure_logging(settings.log_level.upper())
    start = WorkerStart(began_seconds := read_process_start_seconds())
    model = settings.config.model
    try:
        directory = find_directory(model)
        if directory is not None:
            _fork_reader([Path(each.source) for each in (model, model.vae, model.refiner) if each is not None])
        import_libraries(directory)
        has_libraries = True
    except (ModelLoadError, ImportError):
        has_libraries = False
    from easel_server.main import serve  # noqa: PLC0415  # after the weights are being read

    if not has_libraries:
        return serve(settings, start)  # which meets it again, and says so to all who wait for the model
    if (obstacle := find_obstacle()) is not None:
        logger.warning("the worker has no standby, and starts anew if it ends: %s", obstacle)
        return serve(settings, start)
    gc.freeze()  # what a child doesn't look through, it needn't copy
    return Standby(lambda start: serve(settings, start), began_seconds).run()


def find_obstacle(tasks: Path = Path("/proc/self/task"), descriptors: Path = Path("/proc/self/fd")) -> str | None:
    """Why this process must not fork a worker; None if it may."""
    if (count := len(list(tasks.iterdir()))) > 1:
        return f"a library has started {count - 1} threads while it was imported"
    for descriptor in descriptors.iterdir():
        try:
            target = str(descriptor.readlink())
        except OSError:
            continue  # the one that lists them
        if target.startswith(CONTEXT_FILES):
            return f"a library has opened {target} while it was imported"
    return None


def _fork_reader(sources: Sequence[Path]) -> None:
    """Have the weights read into the page cache by a process of its own: its threads must not be there at a fork."""
    parent = os.getpid()
    if os.fork() != 0:
        return
    try:
        _end_with(parent)
        for source in sources:
            if source.is_absolute() and (reading := read_ahead(source)) is not None:
                reading.wait()
    finally:
        os._exit(0)


@dataclass(frozen=True)
class WorkerEnd:
    """How a child ended."""

    code: int  # 0 to 127, or 128 and a signal's number
    was_ready: bool
    crash: signal.Signals | None = None  # the signal that ended it

    @property
    def may_restart(self) -> bool:
        """Whether another one may do better: it held the model, and its engine failed or a library crashed.

        SIGKILL isn't among the crashes: it comes of too little memory, or of somebody who wants the process gone.
        """
        return self.was_ready and (self.code == names.EXIT_ENGINE_FAILED or self.crash in CRASHES)


class Standby:
    """Forks workers, one at a time; forwards signals to them, and reaps every process that is left to it."""

    def __init__(
        self,
        serve: Callable[[WorkerStart], int],
        began_seconds: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        termination_log: Path = Path(names.TERMINATION_MESSAGE_PATH),
    ) -> None:
        self._serve = serve
        self._began_seconds = began_seconds
        self._clock = clock
        self._termination_log = termination_log
        self._worker: int | None = None
        self._is_ending = False

    def run(self) -> int:
        """Until a worker's end is the container's; its exit code."""
        for number in ENDING_SIGNALS:
            signal.signal(number, self._forward)
        restarts, restarted_at_seconds = 0, -RESTART_SECONDS
        while True:
            end = self._run_worker(restarts)
            if end.crash is not None and not self._is_ending:
                report_end(f"the worker was ended by {end.crash.name}", self._termination_log)
            now_seconds = self._clock()
            is_loop = restarts > 0 and now_seconds - restarted_at_seconds < RESTART_SECONDS
            if self._is_ending or is_loop or not end.may_restart:
                return end.code
            restarts, restarted_at_seconds, self._began_seconds = restarts + 1, now_seconds, now_seconds
            news = {"code": end.code, "restarts": restarts}
            logger.warning("the worker ended, and the next one starts at once from the standby", extra=news)
            write_termination_log("", self._termination_log)

    def _run_worker(self, restarts: int) -> WorkerEnd:
        ready_in, ready_out = os.pipe()
        os.set_blocking(ready_in, False)  # a process that the worker left behind may hold the other end open
        # Until its number is known, no signal could be forwarded to the worker.
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
        if self._is_ending:
            return WorkerEnd(0, was_ready=False)
        parent = os.getpid()
        worker = os.fork()
        if worker == 0:
            os.close(ready_in)
            self._work(parent, restarts, ready_out)
        self._worker = worker
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING_SIGNALS)
        os.close(ready_out)
        status = self._reap_until(worker)
        self._worker = None
        try:
            was_ready = os.read(ready_in, 1) == READY
        except BlockingIOError:
            was_ready = False
        os.close(ready_in)
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            return WorkerEnd(SIGNAL_CODES + number, was_ready=was_ready, crash=signal.Signals(number))
        return WorkerEnd(os.WEXITSTATUS(status), was_ready=was_ready)

    def _work(self, parent: int, restarts: int, ready_out: int) -> None:
        """The child: serves and never returns."""
        code = 1
        try:
            _end_with(parent)
            end_at_once_on_signals()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING_SIGNALS)

            def on_ready() -> None:
                os.write(ready_out, READY)

            start = WorkerStart(self._began_seconds, restarts=restarts, on_ready=on_ready)
            start.mark(ColdStartPhase.IMPORTED)
            code = self._serve(start)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _reap_until(self, worker: int) -> int:
        """The status of the worker once it has ended. A container's first process inherits what others leave behind."""
        while True:
            ended, status = os.waitpid(-1, 0)
            if ended == worker:
                return status

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        self._is_ending = True
        if self._worker is None:
            os._exit(0)
        with contextlib.suppress(ProcessLookupError):  # it has ended just now
            os.kill(self._worker, number)


def _end_with(parent: int) -> None:
    """Have the kernel end this process when its parent is gone, however that ended: nobody would reap or stop it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
