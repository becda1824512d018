"""Whether what is locked is there for another processor than this machine's."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.images  # it asks the package index, as building does
@pytest.mark.parametrize("requirements", ["operator", "gateway", "images"])
def test_each_locked_package_has_a_wheel_for_arm(requirements: str, tmp_path: Path) -> None:
    """The operator and gateways run on nodes of either kind; nothing may have to be compiled for one."""
    command = [
        *(str(ROOT / ".venv/bin/uv"), "pip", "install", "--dry-run", "--system-certs", "--target", str(tmp_path)),
        *("--python-version", "3.13", "--python-platform", "aarch64-unknown-linux-gnu"),
        *("--only-binary", ":all:", "--require-hashes", "-r", f"{ROOT}/requirements/{requirements}.txt"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
