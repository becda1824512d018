"""What is read of set-up's own words."""

from benchmarks.demo import read_phases


def test_phases_are_read_as_set_up_says_them() -> None:
    said = [
        "setup: installing Python packages\n",
        "setup: Python packages: 93 s\n",
        "npm notice: 3 s\n",
        "setup: ready\n",
    ]
    assert read_phases(said) == {"Python packages": 93}
