"""Reads a command of kubectl or helm without a cluster: its verb and options, its files, and what it says to the chart.

Called as ``python read_command.py PROGRAM ARGUMENTS...``, in place of the program of that name. Nothing is asked of a
cluster and nothing is printed; the exit status is the program's own where it can't read the command, and 1 where a file
is missing.
"""

import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

CHART_VERBS = {"install", "upgrade", "template"}
# Options that `helm template` has too, and which say what is rendered; each has a value.
OF_THE_CHART = {"--set", "--set-string", "--set-json", "--values", "-f", "-n", "--namespace"}


def build_reading(words: list[str]) -> list[str]:
    """The command as a question for its help, which is answered only after verb and options were read."""
    end = words.index("--") if "--" in words else len(words)
    return [*words[:end], "--help"]


def list_files(words: list[str]) -> list[str]:
    """What ``-f`` names, but for standard input."""
    named = [after for word, after in pairwise(words) if word in {"-f", "--filename", "--values"}]
    return [name for name in named if name != "-"]


def build_rendering(words: list[str]) -> list[str] | None:
    """``helm template`` with a command's values, where it is one of a chart in a folder."""
    if words[0] not in CHART_VERBS or not (chart := next((word for word in words if Path(word).is_dir()), "")):
        return None
    return ["template", "easel", chart, *_list_chart_options(words)]


def _list_chart_options(words: list[str]) -> Iterator[str]:
    for word, after in pairwise(words):
        if word in OF_THE_CHART:
            yield from (word, after)


def main(program: str, *words: str) -> int:
    """The exit status."""
    command = list(words)
    if missing := [name for name in list_files(command) if not Path(name).exists()]:
        sys.stderr.write(f"there is no file {', '.join(missing)}\n")
        return 1
    calls = [build_reading(command)]
    if Path(program).name == "helm" and (rendering := build_rendering(command)) is not None:
        calls.append(rendering)
    codes = [subprocess.run([program, *call], stdout=subprocess.DEVNULL, check=False).returncode for call in calls]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
