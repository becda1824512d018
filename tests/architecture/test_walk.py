"""How far a reader walks: ``make walk`` runs, and the figures don't grow unnoticed. Lower a bound when you can."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 120

# What was measured when the bound was set, and of a request two more than the 288 at most: it differs by runs. A
# step more on the way is a reason to look for one less elsewhere.
#
# Of canaries every tick looks for a record, and every reconcile for one that has to be remembered or called off: three
# files of decide/rollouts/ (its source, its surge and that record), also where there is none. Conditions and children
# have four files more than when each decision was in one of two, of nearly five hundred lines. A request's end is in
# the ledger of usage, and what gateways count is in a file of its own; a tick counts what the workers cost and
# says why; each request of the operator is counted by its answer.
MAX_FILES = {"request": 58, "tick": 37, "reconcile": 56}
MAX_FUNCTIONS = {"request": 290, "tick": 168, "reconcile": 289}


@pytest.fixture(scope="module")
def walk() -> str:
    """Figures, and then each step, as a process of its own prints them: a tracer and signals don't suit a test run."""
    command = [sys.executable, "-m", "benchmarks.walk", "--verbose", "--json"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=True).stdout


@pytest.mark.parametrize("name", ["request", "tick", "reconcile"])
def test_a_walk_is_no_longer_than_it_was(walk: str, name: str) -> None:
    counts = json.loads(walk)[name]
    assert counts["files"] <= MAX_FILES[name]
    assert counts["functions"] <= MAX_FUNCTIONS[name]
    assert counts["changes_of_file"] >= counts["files"] - 1, "each file is come to at least once"


ROW = re.compile(r"^\| `(\S+\.py)` \| `(\S+)` \|", re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "title", "package"),
    [
        ("request", "One request", "easel_server"),
        ("tick", "One scaling tick", "easel_operator"),
        ("reconcile", "One reconcile", "easel_operator"),
    ],
)
def test_the_described_walk_is_the_one_that_is_taken(walk: str, name: str, title: str, package: str) -> None:
    """Every step of docs/contributors/walks.md was called, in this order of first calls."""
    _, _, after = (ROOT / "docs/contributors/walks.md").read_text().partition(f"## {title}")
    described = [f"{package}/{file}:{function}" for file, function in ROW.findall(after.partition("\n## ")[0])]
    taken = json.loads(walk)[name]["steps"]
    assert len(described) > 10
    assert [step for step in described if step not in taken] == []
    assert described == sorted(described, key=taken.index)
