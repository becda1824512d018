"""The container engine that kind uses, with kind's own tools beside it."""

import os
from dataclasses import dataclass
from pathlib import Path

from images import engine as engines
from kindcluster.command import run, run_aloud

FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Engine(engines.Engine):
    """An engine that answers; kind, kubectl and helm."""

    tools: Path  # a directory with these three

    def kind(self, *words: str | Path, stdin: str | None = None) -> str:
        """Standard output of kind. Raises ClusterError."""
        return run(self.tools / "kind", *words, env=self.environment, stdin=stdin)

    def read_id(self, image: str) -> str:
        """The digest of an image's configuration, hexadecimal: equal content has an equal one. Raises EngineError."""
        return self.call("image", "inspect", "--format", "{{.Id}}", image).strip().removeprefix("sha256:")

    def save(self, image: str, file: Path) -> None:
        """Write an image as an archive that containerd takes. Raises EngineError."""
        formats = ("--format", "docker-archive") if self.program == "podman" else ()
        file.unlink(missing_ok=True)  # podman refuses to write over one
        self.call("save", *formats, "--output", file, image)


def find_engine() -> Engine:
    """The engine that answers: the one that ENGINE names, else docker before podman. Raises EngineError, ClusterError.

    kind and the scripts of this folder are told which, in its environment.
    """
    found = engines.find_engine()
    said = {**os.environ, **found.environment, "ENGINE": found.program, "KIND_EXPERIMENTAL_PROVIDER": found.program}
    return Engine(found.program, said, Path(run_aloud(FOLDER / "tools.sh")))
