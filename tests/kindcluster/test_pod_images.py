"""Which images a cluster's nodes are given, and that the chart then uses these."""

import textwrap
from pathlib import Path

import pytest

from kindcluster.engine import Engine
from kindcluster.pod_images import PodImage, find_missing, list_values, load_images, read_images

OPERATOR = PodImage("operator.image", "registry.test:5000/easel-operator:1.0", "a" * 64)
WORKER = PodImage("worker.image", "registry.test:5000/easel-worker:1.0", "b" * 64)


def test_an_image_is_named_by_its_content_on_nodes() -> None:
    assert OPERATOR.name_on_nodes == "registry.test:5000/easel-operator:1.0-aaaaaaaaaaaa"
    changed = PodImage(OPERATOR.value, OPERATOR.reference, "c" * 64)
    assert changed.name_on_nodes != OPERATOR.name_on_nodes


def test_the_chart_is_given_the_names_of_the_nodes() -> None:
    assert list_values([OPERATOR]) == [
        *("--set-string", "operator.image.repository=registry.test:5000/easel-operator"),
        *("--set-string", "operator.image.tag=1.0-aaaaaaaaaaaa"),
    ]


def test_only_nodes_that_lack_an_image_are_given_it() -> None:
    present = {
        "one": {OPERATOR.name_on_nodes},
        "two": {OPERATOR.name_on_nodes, WORKER.name_on_nodes},
        "new": set[str](),
    }
    assert find_missing([OPERATOR, WORKER], present) == {
        OPERATOR.name_on_nodes: ["new"],
        WORKER.name_on_nodes: ["one", "new"],
    }


class Programs:
    """Fakes of docker, podman and kind that note how they are called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls = folder / "calls"

    def write(self, name: str, script: str) -> None:
        """A program; ``script`` is what it does beside noting its words."""
        path = self.folder / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>{self.calls}\n{textwrap.dedent(script)}\n')
        path.chmod(0o755)

    def read_calls(self, *, of: str) -> list[str]:
        """Calls that begin so."""
        return [line for line in self.calls.read_text().splitlines() if line.startswith(of)]


@pytest.mark.parametrize("program", ["docker", "podman"])
def test_what_nodes_have_is_not_loaded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    programs = Programs(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    programs.write(
        program,
        f"""\
        case "$1 $2" in
          "image inspect") echo sha256:{OPERATOR.id} ;;
          "exec old") echo {OPERATOR.name_on_nodes} ;;
        esac""",
    )
    programs.write("kind", "")
    engine = Engine(program, {"PATH": f"{programs.folder}:/usr/bin:/bin"}, programs.folder)
    images = read_images(engine, {OPERATOR.value: OPERATOR.reference})
    assert images == (OPERATOR,)
    assert load_images(engine, "mine", ["old"], images, programs.folder) == []
    assert programs.read_calls(of="kind") == []

    assert load_images(engine, "mine", ["old", "new"], images, programs.folder) == [OPERATOR.name_on_nodes]
    archive = programs.folder / "image.tar"
    assert programs.read_calls(of="kind") == [f"kind load image-archive --name mine --nodes new {archive}"]
