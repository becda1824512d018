"""``easel`` as a user types it: in this process, or as a process of its own."""

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Final

import pytest
from easel_cli.main import main

PROCESS_SECONDS: Final = 180.0  # of one that waits for a cluster, on a busy machine


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str


def run_here(capsys: pytest.CaptureFixture[str], *arguments: str) -> Done:
    """In this process, without a terminal."""
    capsys.readouterr()
    status = main(arguments)
    said = capsys.readouterr()
    return Done(int(status), said.out, said.err)


def run_process(*arguments: str, **environment: str) -> Done:
    """As a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "easel_cli", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PROCESS_SECONDS,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)
