"""How tests are shared out: real runs of pytest with two processes, on a few small files."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.distribution import APART, TOGETHER, name_unit

ROOT = Path(__file__).resolve().parents[1]
RUN = ("-v", "-p", "xdist", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadscope", "--no-loadscope-reorder")
MARKERS = "[pytest]\nmarkers = cluster\n torch\n nightly\n"


def run(folder: Path, files: dict[str, str]) -> str:
    """What pytest says of some files, with the distribution of this tree."""
    for name, text in {
        "pytest.ini": MARKERS,
        "conftest.py": 'pytest_plugins = ["tests.distribution"]',
        **files,
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"import pytest\n{text}" if name.startswith("tests") else text)
    command = [sys.executable, "-m", "pytest", *RUN, "-m", "not nightly"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_is_left_to_the_night_is_counted_and_the_rest_runs(tmp_path: Path) -> None:
    nightly = "@pytest.mark.nightly\ndef test_long(): raise AssertionError\ndef test_short(): pass\n"
    said = run(tmp_path, {"tests/test_one.py": nightly, "tests/test_two.py": nightly})
    assert "2 passed" in said
    assert "2 tests deselected by -m 'not nightly'" in said


def test_who_needs_a_cluster_begins_in_one_process_and_torch_in_the_other(tmp_path: Path) -> None:
    """Each waits for the other's beginning, so that neither process can take both."""
    wait = """
import pathlib, time
def meet(mine, others):
    pathlib.Path(mine).touch()
    deadline = time.monotonic() + 60
    while not pathlib.Path(others).exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
"""
    cases = "pytestmark = pytest.mark.{0}\n" + wait + "def test_first(): meet('{0}', '{1}')\ndef test_next(): pass\n"
    plain = "def test_a(): pass\ndef test_b(): pass\ndef test_c(): pass\n"
    files = {f"tests/test_{number}.py": plain for number in range(4)}
    files |= {
        "tests/test_a.py": cases.format("torch", "cluster"),
        "tests/test_z.py": cases.format("cluster", "torch"),
    }
    assert "16 passed" in run(tmp_path, files)


@pytest.mark.parametrize(
    ("nodeid", "unit"),
    [
        ("tests/e2e/test_status.py::test_x[a::b]", "tests/e2e"),
        ("tests/e2e/operators/test_fail_over.py::test_x", "tests/e2e/operators"),
        ("tests/e2e/test_network_policies.py::test_x", "tests/e2e/test_network_policies.py"),
        ("tests/operator/test_x.py::test_y", "tests/operator/test_x.py"),
    ],
)
def test_a_cluster_of_a_folder_stays_in_one_process(nodeid: str, unit: str) -> None:
    assert name_unit(nodeid) == unit


def test_each_folder_with_a_fixture_of_its_own_is_kept_together() -> None:
    folders = {
        str(conftest.parent.relative_to(ROOT))
        for conftest in (ROOT / "tests").rglob("conftest.py")
        if 'scope="package"' in conftest.read_text()
    }
    assert folders <= set(TOGETHER)
    assert all((ROOT / path).exists() for path in (*TOGETHER, *APART))
