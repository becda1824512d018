"""How far a reader walks: ``make walk`` runs, and the figures don't grow unnoticed. Lower a bound when you can."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 120

# What was measured when the bound was set; a step more on the way is a reason to look for one less elsewhere.
MAX_FILES = {"request": 44, "tick": 26, "reconcile": 27}
MAX_FUNCTIONS = {"request": 189, "tick": 113, "reconcile": 114}


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


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("request", "easel_server/worker/worker.py:Worker.run"),
        ("tick", "easel_operator/handlers/scaling_loop.py:ScalingLoop.tick"),
        ("reconcile", "easel_operator/handlers/reconciler.py:Reconciler.reconcile"),
    ],
)
def test_a_walk_goes_where_its_name_says(walk: str, name: str, step: str) -> None:
    assert step in json.loads(walk)[name]["steps"]
