"""The container engine that kind uses, docker or podman: its environment, its images."""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from kindcluster.command import run, run_aloud

FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Engine:
    """An engine that answers, and the tools beside it."""

    program: str  # docker | podman
    tools: Path  # a directory with kind, kubectl and helm
    environment: dict[str, str]  # for each command that reaches the engine, kind among them

    def call(self, *words: str | Path) -> str:
        """Standard output of the engine's client. Raises ClusterError."""
        return run(self.program, *words, env=self.environment)

    def kind(self, *words: str | Path, stdin: str | None = None) -> str:
        """Standard output of kind. Raises ClusterError."""
        return run(self.tools / "kind", *words, env=self.environment, stdin=stdin)

    def read_id(self, image: str) -> str:
        """The digest of an image's configuration, hexadecimal: equal content has an equal one. Raises ClusterError."""
        return self.call("image", "inspect", "--format", "{{.Id}}", image).strip().removeprefix("sha256:")

    def save(self, image: str, file: Path) -> None:
        """Write an image as an archive that containerd takes. Raises ClusterError."""
        formats = ("--format", "docker-archive") if self.program == "podman" else ()
        file.unlink(missing_ok=True)  # podman refuses to write over one
        self.call("save", *formats, "--output", file, image)


def find_engine() -> Engine:
    """The engine that answers, docker before podman, with kind's tools. Raises ClusterError where none does."""
    said = dict(line.split("=", 1) for line in run(FOLDER / "engine.sh").splitlines())
    environment = {**os.environ, **{name: "".join(shlex.split(value)) for name, value in said.items()}}
    return Engine(environment.pop("ENGINE"), Path(run_aloud(FOLDER / "tools.sh")), environment)
