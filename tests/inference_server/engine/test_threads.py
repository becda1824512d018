"""How many threads torch gets."""

import os

import pytest
from easel_server.engine.interface import ModelLoadError
from easel_server.engine.loading import choose_threads, count_processors

ALL = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param("max 100000\n", ALL, id="no limit: every CPU the scheduler allows"),
        pytest.param("100000 100000\n", 1, id="one CPU"),
        pytest.param("50000 100000\n", 1, id="half a CPU is still one thread"),
        pytest.param("6400000 100000\n", ALL, id="a limit above the machine is no more than the machine"),
        pytest.param("nonsense\n", ALL, id="an unknown format is no limit"),
    ],
)
def test_the_cgroups_limit_counts(tmp_path, content, expected):
    (tmp_path / "cpu.max").write_text(content)
    assert count_processors(tmp_path) == expected


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        pytest.param("-1\n", ALL, id="no limit"),
        pytest.param("150000\n", min(2, ALL), id="a CPU and a half are two threads"),
        pytest.param("20000\n", 1, id="a fifth of a CPU is still one thread"),
        pytest.param("\n", ALL, id="an unknown format is no limit"),
    ],
)
def test_the_limit_of_cgroups_v1_counts(tmp_path, quota, expected):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert count_processors(tmp_path) == expected


def test_without_a_cgroup_the_affinity_counts(tmp_path):
    assert count_processors(tmp_path / "missing") == ALL


def test_the_variable_wins(monkeypatch):
    monkeypatch.setenv("EASEL_TORCH_THREADS", "17")
    assert choose_threads() == 17


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5"])
def test_a_bad_variable_is_named(monkeypatch, value):
    monkeypatch.setenv("EASEL_TORCH_THREADS", value)
    with pytest.raises(ModelLoadError, match=f"EASEL_TORCH_THREADS='{value}': must be a whole number of at least 1"):
        choose_threads()
