"""Takes out of an image's environment what its program never imports; runs in the build, by that environment's Python.

``prune.py IMAGE``: what goes is listed here by image. Each package's RECORD, its list of files, says afterwards what is
left (https://packaging.python.org/en/latest/specifications/recording-installed-packages/).
"""

import csv
import io
import sys
from collections.abc import Iterable
from fnmatch import fnmatchcase
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Final

# Of files as a RECORD names them, from site-packages; a * goes over slashes.
OF_SERVER: Final = ("easel_server/*", "*/bin/easel-server")
OF_OPERATOR: Final = ("easel_operator/*", "easel_cli/*", "*/bin/easel-operator", "*/bin/easel", "*/bin/kubectl-easel")
# The operator sends JSON of its own over the client's connection. Never imported: a class for each path of the API,
# once more for asyncio, and there a class for each kind.
OF_KUBERNETES: Final = (
    "kubernetes/client/api/*",
    "kubernetes/aio/client/api/*",
    "kubernetes/aio/client/models/[!_]*",
)
PRUNED: Final = {
    "operator": (*OF_SERVER, "easel_cli/*", "*/bin/easel", "*/bin/kubectl-easel", *OF_KUBERNETES),
    "gateway": OF_OPERATOR,
    "worker": OF_OPERATOR,
}


def is_pruned(path: str, patterns: Iterable[str]) -> bool:
    """Whether a file of a RECORD goes."""
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def prune_record(record: str, patterns: Iterable[str]) -> tuple[str, list[str]]:
    """A RECORD's text without what goes, and the paths that go."""
    rows = list(csv.reader(io.StringIO(record)))
    gone = [row[0] for row in rows if is_pruned(row[0], patterns)]
    left = io.StringIO()
    csv.writer(left, lineterminator="\n").writerows(row for row in rows if row[0] not in set(gone))
    return left.getvalue(), gone


def prune_distribution(distribution: Distribution, patterns: Iterable[str]) -> int:
    """Delete a package's files that go; the number of bytes that were theirs."""
    record = distribution.read_text("RECORD")
    if record is None:
        return 0
    left, gone = prune_record(record, patterns)
    if not gone:
        return 0
    files = [Path(str(distribution.locate_file(path))) for path in gone]
    total = sum(file.stat().st_size for file in files)
    for file in files:
        file.unlink()
    for folder in sorted({parent for file in files for parent in file.parents}, key=lambda path: -len(path.parts)):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    (own,) = [
        Path(str(distribution.locate_file(row[0])))
        for row in csv.reader(io.StringIO(left))
        if row[0].endswith(".dist-info/RECORD")
    ]
    own.write_text(left)
    return total


def main() -> None:
    """Prune the environment of the Python that runs this; ends with a sentence where the image is unknown."""
    image = sys.argv[1] if len(sys.argv) == 2 else ""
    if image not in PRUNED:
        sys.exit(f"prune.py: {image or 'no image'}: may be {', '.join(PRUNED)}")
    total = sum(prune_distribution(each, PRUNED[image]) for each in list(distributions()))
    sys.stdout.write(f"pruned {total / 1e6:.1f} MB that the {image} never imports\n")


if __name__ == "__main__":
    main()
