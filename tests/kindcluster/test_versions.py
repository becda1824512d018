"""Versions that are said twice agree."""

import re
from pathlib import Path

from kindcluster.command import run

ROOT = Path(__file__).resolve().parents[2]


def read_version(name: str) -> str:
    """As the scripts have it."""
    return run("bash", "-c", f'source "$1" && echo "${name}"', "bash", ROOT / "kindcluster/versions.sh").strip()


def test_kubernetes_is_the_embedded_clusters() -> None:
    module = (ROOT / "devcluster/go.mod").read_text()
    assert re.search(rf"^\s*k8s.io/kubernetes {re.escape(read_version('KUBERNETES_VERSION'))}$", module, re.MULTILINE)


def test_coredns_is_the_one_that_is_compiled() -> None:
    assert re.fullmatch(r"v\d+\.\d+\.\d+", read_version("COREDNS_VERSION"))


def test_the_published_node_image_is_named_by_its_digest() -> None:
    assert re.fullmatch(r"docker\.io/kindest/node@sha256:[0-9a-f]{64}", read_version("KIND_NODE_IMAGE"))


def test_workflows_name_actions_by_a_full_version() -> None:
    for file in (ROOT / ".github/workflows").glob("*.yml"):
        used = re.findall(r"uses: (\S+)", file.read_text())
        assert used, file.name
        loose = [name for name in used if not re.search(r"@(v\d+\.\d+\.\d+|[0-9a-f]{40})$", name)]
        assert loose == [], f"{file.name}: a tag like v5 moves"
