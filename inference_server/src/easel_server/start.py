"""The console script: what happens before the server is imported, which takes seconds where torch is part of it.

1. Signals that end a process do so from its first moment: as a container's first process it would ignore them.
2. The settings are read; a mistake in them is reported at once.
3. A worker with a real model imports its libraries while its weights are read ahead, and serves from a child of its own
   (``standby.py``). Everything else serves in this process.
"""

import importlib.util
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from easel_server.config import Settings

EXIT_SETTINGS: Final = 2  # as argparse does
ENDING_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
TERMINATION_MESSAGE_BYTES: Final = 4096  # Kubernetes keeps no more

logger = logging.getLogger(__name__)


def main() -> None:
    """Console script."""
    end_at_once_on_signals()
    code = run(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: it would wait for threads, and one inside a GPU driver or a download may never return.
    os._exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run until a signal; the exit code."""
    from easel_server.config import SettingsError, read_settings  # noqa: PLC0415  # the signals come first
    from easel_server.telemetry.worker_start import begin_with_process  # noqa: PLC0415

    try:
        settings = read_settings(arguments)
    except SettingsError as error:
        sys.stderr.write(f"easel-server: {error}\n")
        return EXIT_SETTINGS
    if (missing := find_missing_library(settings)) is not None:
        sys.stderr.write(f"easel-server: {missing}\n")
        return EXIT_SETTINGS
    from easel_server.standby import has_standby, serve_from_standby  # noqa: PLC0415

    if has_standby(settings):
        return serve_from_standby(settings)
    from easel_server.main import serve  # noqa: PLC0415

    return serve(settings, begin_with_process())


def find_missing_library(settings: "Settings") -> str | None:
    """What keeps a process from loading models that isn't installed, and what to do; None where nothing is missing."""
    from easel_contract import names  # noqa: PLC0415  # the signals come first
    from easel_contract.server_config import EngineKind  # noqa: PLC0415

    needs_none = settings.role == "gateway" or settings.config.engine.kind is EngineKind.SYNTHETIC
    if needs_none or importlib.util.find_spec("torch") is not None:
        return None
    return (
        f"role {settings.role} needs torch, which isn't installed: {names.install_hint('server')}. Of the images the "
        "worker's has it, and the gateway's hasn't (worker.image, gateway.image)"
    )


def end_at_once_on_signals() -> None:
    """Until the server takes them: nothing has begun that would have to be finished."""
    for number in ENDING_SIGNALS:
        signal.signal(number, _end_at_once)


def _end_at_once(_number: int, _frame: FrameType | None) -> None:
    os._exit(0)


def report_end(message: str, termination_log: Path) -> None:
    """Say why on standard error, and where Kubernetes looks for the reason of a pod's end."""
    sys.stderr.write(f"easel-server: {message}\n")
    write_termination_log(message, termination_log)


def write_termination_log(message: str, termination_log: Path) -> None:
    """The reason of an end, as Kubernetes will show it; an empty one takes it back."""
    try:
        # Without creating it: outside a pod there is no such file, and none is wanted.
        with termination_log.open("r+b") as file:
            file.truncate()
            file.write(message.encode()[:TERMINATION_MESSAGE_BYTES])
    except OSError as error:
        logger.debug("no termination message: %s", error)


if __name__ == "__main__":
    main()
