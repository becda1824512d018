"""Running a command to its end; what it says on standard error becomes the exception's message."""

import subprocess
from collections.abc import Mapping
from pathlib import Path


class ClusterError(Exception):
    """A step of bringing the cluster up failed; the message is what the failing command said."""


def run(*command: str | Path, env: Mapping[str, str] | None = None, stdin: str | None = None) -> str:
    """Standard output of a command. Raises ClusterError with its standard error."""
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, input=stdin, env=env, check=False
    )
    if done.returncode != 0:
        raise ClusterError(f"{' '.join(str(word) for word in command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def run_aloud(*command: str | Path, env: Mapping[str, str] | None = None) -> str:
    """As ``run``, for what takes minutes: its standard error is shown while it runs. Raises ClusterError."""
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, env=env, check=False)
    if done.returncode != 0:
        raise ClusterError(f"{command[0]} ended with {done.returncode} (see above)")
    return done.stdout.strip()
