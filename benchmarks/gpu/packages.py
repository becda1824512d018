"""``python -m benchmarks.gpu.packages ARCHIVE``: what a machine with a GPU and without internet lacks, from the lock.

Such a machine has a Python with torch, what torch needs, and numpy. All else that the server locks is put into
an archive for that Python and platform; unpacked, it goes to PYTHONPATH there: ``make bench-gpu PACKAGES=ARCHIVE``.
"""

import argparse
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Final

from benchmarks.server.processes import ROOT

LOCK: Final = ROOT / "requirements/server.txt"
# torch, its own dependencies, and what every image with torch has.
THERE: Final = re.compile(
    r"torch|triton.*|nvidia-.*|cuda-.*|sympy|mpmath|networkx|jinja2|markupsafe|filelock|fsspec|setuptools|numpy"
)
PYTHON: Final = "3.12"
PLATFORM: Final = "x86_64-manylinux_2_28"


def main() -> None:
    """Write the archive."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path, help="a .tar.gz file")
    parser.add_argument("--python", default=PYTHON, help=f"version there; default: {PYTHON}")
    parser.add_argument("--platform", default=PLATFORM, help=f"as uv names it; default: {PLATFORM}")
    parser.add_argument(
        "--with", dest="too", action="append", default=[], help="a package that is missing there after all"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        folder, wanted = Path(directory) / "packages", Path(directory) / "requirements.txt"
        wanted.write_text("".join(choose(LOCK.read_text().splitlines(keepends=True), arguments.too)))
        subprocess.run(
            [
                *(sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--require-hashes"),
                *("--only-binary", ":all:", "--python-version", arguments.python),
                *("--python-platform", arguments.platform, "--target", str(folder), "-r", str(wanted)),
            ],
            check=True,
        )
        _name_project(folder)
        with tarfile.open(arguments.archive, "w:gz") as archive:
            archive.add(folder, ".")
    sys.stdout.write(f"{arguments.archive}: {arguments.archive.stat().st_size / 2**20:.0f} MiB\n")


def choose(lines: Iterable[str], too: Collection[str] = ()) -> Iterator[str]:
    """The lock's lines, but for what is there. A requirement goes on in lines that are indented."""
    is_wanted = False
    for line in lines:
        if not line.startswith((" ", "#")):
            name = re.split(r"[=\s;]", line, maxsplit=1)[0]
            is_wanted = name in too or not THERE.fullmatch(name)
        if is_wanted:
            yield line


def _name_project(folder: Path) -> None:
    """The server looks its own version up; there it runs from its sources, which aren't installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    name, version = project["name"], project["version"]
    described = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


if __name__ == "__main__":
    main()
