"""Processes of a measurement: started, awaited, watched, and ended whatever happens."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

HOST = "127.0.0.1"
START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 10.0
POLL_SECONDS = 0.01
ROOT = Path(__file__).parents[2]


@contextmanager
def running(command: Sequence[str | Path], environment: dict[str, str] | None = None) -> Iterator[int]:
    """A process and its children while the body runs; its id. What they write goes to standard error."""
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": _python_path(), **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process.pid
    finally:
        _end_group(process)


def _python_path() -> str:
    """This tree's root, and whatever the caller has already: another checkout's sources, where it compares two."""
    return os.pathsep.join((str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])))


def _end_group(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            break
    process.wait()


def wait_for_port(port: int) -> None:
    """Return once somebody listens."""

    def is_open() -> bool:
        with closing(socket.socket()) as probe:
            return probe.connect_ex((HOST, port)) == 0

    wait_until(is_open, f"listener on port {port}", START_TIMEOUT_SECONDS)


def wait_until(condition: Callable[[], bool], what: str, timeout_seconds: float) -> None:
    """Return once the condition holds. Raises TimeoutError."""
    give_up_at = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"no {what} within {timeout_seconds:g} s")
        time.sleep(POLL_SECONDS)


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used, see proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    """Memory of a process that is in RAM."""
    status = Path(f"/proc/{pid}/status").read_text()
    kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(kib) / 1024
