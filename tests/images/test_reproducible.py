"""Two builds of one commit, the second without what the engine keeps of the first."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from images import debian_base
from images.engine import Engine
from images.plan import IMAGES, Source, name_image
from tests.images.containers import run_python

ROOT = Path(__file__).resolve().parents[2]
TAG = "again"
# Each file's name, mode, time and content.
DIGEST = """
import hashlib, os, pathlib
digest = hashlib.sha256()
for path in sorted(pathlib.Path("/opt/easel").rglob("*")):
    stat = path.lstat()
    digest.update(f"{path} {stat.st_mode} {int(stat.st_mtime)} ".encode())
    digest.update(os.readlink(path).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b"")
print(digest.hexdigest())
"""


@pytest.mark.nightly  # it takes as long as a build from nothing
def test_two_builds_of_the_operator_are_the_same(engine: Engine, source: Source) -> None:
    """As far as the engine lets them: docker gives files outside of /opt/easel the time of the build."""
    first, again = (name_image(IMAGES[0], tag) for tag in (source.version, TAG))
    base = read(engine, first, ".Config.Labels")["org.opencontainers.image.base.name"]
    stand_in = ("--base", "debian") if base == debian_base.name_base("").reference else ()
    command = [ROOT / "scripts/images.sh", "--only", "operator", *stand_in, "--tag", TAG, "--no-cache"]
    subprocess.run(command, check=True, env=engine.environment)
    try:
        assert run_python(engine, first, DIGEST) == run_python(engine, again, DIGEST)
        if engine.program == "podman":
            assert read(engine, first, ".RootFS.Layers") == read(engine, again, ".RootFS.Layers")
    finally:
        engine.call("rmi", again)


def read(engine: Engine, name: str, field: str) -> Any:
    return json.loads(engine.call("image", "inspect", "--format", f"{{{{json {field}}}}}", name))
