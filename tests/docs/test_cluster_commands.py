"""What pages do with kubectl and helm is read by these programs themselves, page by page, without a cluster.

A verb, an option, a file or a value of the chart that there isn't fails. What a cluster would answer is not asked.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from demo.cluster import devcluster_binary
from tests.docs.blocks import Setting, group_by_page, read_blocks
from tests.docs.read_command import build_rendering, list_files

pytestmark = pytest.mark.cluster  # kubectl and helm come with the embedded cluster's binary

ROOT = Path(__file__).resolve().parents[2]
READER = ROOT / "tests/docs/read_command.py"
LINKED = ("crds", "dashboards", "examples", "helm")
COMMAND_SECONDS = 300
COMMANDS = group_by_page(Setting.CLUSTER)
# What reads the output of a command, of which there is none here.
READERS = "grep() { cat >/dev/null; }; openssl() { cat >/dev/null; }; base64() { cat >/dev/null; }\n"


class Shell:
    """A folder that looks like a clone of the repository, with kubectl and helm that only read their commands."""

    def __init__(self, directory: Path) -> None:
        self._folder = directory / "easel"
        self._folder.mkdir()
        for name in LINKED:
            (self._folder / name).symlink_to(ROOT / name)
        programs = directory / "bin"
        programs.mkdir()
        for name in ("kubectl", "helm"):
            program = Path(devcluster_binary()).parent / name
            (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {READER} {program} "$@"\n')
            (programs / name).chmod(0o755)
        path = f"{programs}:{os.environ['PATH']}"
        self._environment = {"PATH": path, "HOME": str(directory), "KUBECONFIG": os.devnull}
        self._environment |= {"NAMESPACE": "default", "SERVICE": "sdxl", "POD": "sdxl-worker-0"}  # what runbooks take

    def run(self, script: str) -> str:
        """What went wrong, or nothing."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", READERS + script],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        return f"exit {done.returncode}: {done.stderr[-4000:]}" if done.returncode else ""


@pytest.mark.parametrize("page", COMMANDS)
def test_the_commands_of_a_page_can_be_read(page: str, tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    for block in COMMANDS[page]:
        assert shell.run(block.text) == "", f"{block.place}\n{block.text}"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("kubectl gett pods", 'unknown command "gett"'),
        ("kubectl get pods --sort-bye=x", "unknown flag: --sort-bye"),
        ("kubectl apply -f examples/nothing.yaml", "there is no file examples/nothing.yaml"),
        ("helm upgrade easel helm/easel --reset-then-reuse-value", "unknown flag: --reset-then-reuse-value"),
        ("helm upgrade easel helm/easel --set operator.watchedNamespaces=a", "watchedNamespaces"),
        ("helm install easel helm/easel --set 'imagePullSecrets={mirror}'", "imagePullSecrets"),
    ],
)
def test_a_command_that_cant_be_read_is_found(command: str, said: str, tmp_path: Path) -> None:
    [block] = read_blocks("a.md", f"```sh\n{command}\n```\n")
    assert said in Shell(tmp_path).run(block.text)


def test_a_command_of_the_chart_is_rendered_with_its_values() -> None:
    words = ["upgrade", "--install", "easel", "/", "-n", "a", "--wait", "--set", "b=c", "--values", "d.yaml"]
    assert build_rendering(words) == ["template", "easel", "/", "-n", "a", "--set", "b=c", "--values", "d.yaml"]
    assert build_rendering(["uninstall", "easel", "-n", "a"]) is None
    assert list_files(["apply", "-f", "-", "-f", "a.yaml"]) == ["a.yaml"]
