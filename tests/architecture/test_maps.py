"""The documents that say where things are name files that there are."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAPS = (
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "contract/README.md",
    "docs/contributors/first-change.md",
    "docs/glossary.md",
    "inference_server/README.md",
    "operator/README.md",
)
# Where they may lie; maps name a file by the end of its path, beside its room.
PLACES = ("contract", "inference_server/src", "operator", "cli", "demo", "docs", "devcluster", "benchmarks", "tests")
PLACEHOLDER = "NAME"  # of an API


@pytest.mark.parametrize("document", MAPS)
def test_a_path_that_a_document_names_is_there(document: str) -> None:
    text = (ROOT / document).read_text()
    named = set(re.findall(r"`([\w./-]+(?:\.py|\.md|\.lua|/))`", text))
    assert named
    missing = {path for path in named if PLACEHOLDER not in path and not _is_there(path.rstrip("/"))}
    assert missing == set()


def _is_there(path: str) -> bool:
    return (ROOT / path).exists() or any(next((ROOT / place).rglob(path), None) for place in PLACES)
