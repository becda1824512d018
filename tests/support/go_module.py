"""Files of published Go modules, such as the CRDs of others: fetched once by Go, which checks them by its checksums."""

import json
import os
import subprocess
import tempfile
from pathlib import Path


def fetch_module(module: str, version: str) -> Path:
    """The module's folder. Raises AssertionError with Go's words where it can't be had."""
    with tempfile.TemporaryDirectory() as outside_of_any_module:
        done = subprocess.run(
            ["go", "mod", "download", "-json", f"{module}@{version}"],
            cwd=outside_of_any_module,
            env={**os.environ, "GOFLAGS": "-mod=mod"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr or done.stdout
    return Path(json.loads(done.stdout)["Dir"])
