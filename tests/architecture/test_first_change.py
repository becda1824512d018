"""``docs/contributors/first-change.md`` stays true: its patches apply to the sources, and aren't in them already."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATCH = re.compile(r"```diff\n(.*?)```", re.DOTALL)


def test_the_patches_of_the_first_change_apply() -> None:
    patches = PATCH.findall((ROOT / "docs/contributors/first-change.md").read_text())
    assert len(patches) == 4
    command = ["git", "apply", "--check", "--verbose", "-C1", "-"]
    done = subprocess.run(
        command, cwd=ROOT, input="".join(patches), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
