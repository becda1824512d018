"""``python -m benchmarks.engine [NAME...]``: measurements, into benchmarks/results/engine.json and as a table.

Each runs in a process of its own within a time of its own, and is written as soon as it is there.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.record import build_provenance
from benchmarks.server.processes import ROOT

RESULTS: Final = ROOT / "benchmarks/results/engine.json"
TORCH_THREADS: Final = "1"  # the other processor is the event loop's, and whoever else's
ENV_TORCH_THREADS: Final = "EASEL_TORCH_THREADS"


@dataclass(frozen=True)
class Part:
    """A measurement: a function of a module, which is imported where it runs (some load torch, some must not)."""

    module: str
    function: str
    options: Mapping[str, int]
    quick_options: Mapping[str, int]  # few rounds only, for whoever works on it
    limit_seconds: float


# In the order of how long they take.
PARTS: Final[Mapping[str, Part]] = {
    "shares": Part("steps", "measure_shares", {}, {}, 60),
    "overhead": Part("steps", "measure_overhead", {"rounds": 9}, {"rounds": 3}, 60),
    "exact": Part("alone", "measure_exact", {"rounds": 5}, {"rounds": 2}, 150),
    "previews": Part("alone", "measure_previews", {"rounds": 5}, {"rounds": 2}, 150),
    "alone": Part("alone", "measure", {"rounds": 9}, {"rounds": 3}, 150),
    "compiled": Part("alone", "measure_compiled", {"rounds": 9}, {"rounds": 3}, 240),
    "memory": Part("memory", "measure", {"jobs": 1000}, {"jobs": 200}, 240),
    "ideal": Part("ideal", "measure", {"jobs": 300, "rounds": 20}, {"jobs": 100, "rounds": 3}, 60),
    "simulated": Part("serving", "measure_simulated", {"jobs": 200}, {"jobs": 60}, 240),
    "start": Part("start", "measure", {"rounds": 2}, {"rounds": 1}, 240),
    "serving": Part("serving", "measure", {"jobs": 50, "rounds": 2}, {"jobs": 20, "rounds": 1}, 330),
}
GOALS: Final = {
    "alone.*.engine_over_stock.by_cpu.median": "at most 1.02",
    "compiled.*.engine_over_stock.by_cpu.median": "at most 1.02",
    "previews.*.with_over_without.by_cpu.median": "at most 1.03",
    "memory.resident_last_over_first": "at most 1.05",
    "memory.live_tensors_last_over_first": "at most 1.05",
    "start.ready_over_script.by_cpu.median": "at most 1.0",
    "start.standby_ready_over_script.by_cpu.median": "at most 0.2",
    "serving.p50_over_one_by_one": "at most 0.65",
    "serving.p95_over_best_static": "at most 0.85",
    **{
        f"simulated.saves={saves}.{figure}": goal
        for curves, goals in {
            (0.1, 0.3): {"p50_over_one_by_one": "at most 1.02", "p95_over_one_by_one": "at most 1.02"},
            (0.5, 0.7): {"p50_over_one_by_one": "at most 0.65", "p95_over_best_static": "at most 0.85"},
        }.items()
        for saves in curves
        for figure, goal in goals.items()
    },
}


def main() -> int:
    """Measure, write, print; 1 if a measurement failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--dry", action="store_true", help="print only, leave the result file alone")
    parser.add_argument("--quick", action="store_true", help="few rounds: to see that it works, not for figures")
    parser.add_argument("--limit-scale", type=float, default=1.0, help="more time for each, on a busy machine")
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)  # in the process of a measurement
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(PARTS):
        parser.error(f"no measurement is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if arguments.into is not None:
        _run_here(arguments.names[0], arguments.into, quick=arguments.quick)
        return 0
    failed = False
    for name in arguments.names or PARTS:
        load_before, began = os.getloadavg()[0], time.monotonic()
        sys.stderr.write(f"measuring {name} (load average {load_before:.2f})\n")
        figures = _run_apart(name, arguments)
        if figures is None:
            failed = True
            continue
        if not arguments.dry:
            write(name, figures, load_before, time.monotonic() - began)
        sys.stdout.write("".join(f"{line}\n" for line in build_table(name, figures)))
        sys.stdout.flush()
    return int(failed)


def _run_here(name: str, into: Path, *, quick: bool) -> None:
    from easel_server.engine.loading import prepare_libraries  # noqa: PLC0415

    prepare_libraries()
    warnings.filterwarnings("ignore")  # libraries' own
    part = PARTS[name]
    measure = getattr(importlib.import_module(f"benchmarks.engine.{part.module}"), part.function)
    into.write_text(json.dumps(measure(**(part.quick_options if quick else part.options))))


def _run_apart(name: str, arguments: argparse.Namespace) -> dict[str, Any] | None:
    """The figures; None, with a line that says why, if there are none."""
    limit_seconds = PARTS[name].limit_seconds * arguments.limit_scale
    with tempfile.TemporaryDirectory(prefix="easel-bench-") as directory:
        into = Path(directory) / "figures.json"
        command = [sys.executable, "-m", "benchmarks.engine", name, "--into", str(into)]
        environment = {ENV_TORCH_THREADS: TORCH_THREADS, "HF_HUB_OFFLINE": "1", **os.environ}
        try:
            subprocess.run(
                [*command, *(["--quick"] if arguments.quick else [])],
                cwd=ROOT,
                env=environment,
                check=True,
                timeout=limit_seconds,
            )
        except subprocess.TimeoutExpired:
            sys.stderr.write(f"{name}: no figures within {limit_seconds:g} s; try --limit-scale 3 on a busy machine\n")
            return None
        except subprocess.CalledProcessError as error:
            sys.stderr.write(f"{name}: no figures, it ended with code {error.returncode}\n")
            return None
        figures: dict[str, Any] = json.loads(into.read_text())
        return figures


def write(name: str, figures: Mapping[str, Any], load_before: float, seconds: float) -> None:
    """Into the result file; measurements that weren't taken keep their last figures and date."""
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    measured = {
        **build_provenance(),
        "load_average_before": round(load_before, 2),
        "seconds": round(seconds),
        "torch_threads": int(os.environ.get(ENV_TORCH_THREADS, TORCH_THREADS)),
    }
    kept[name] = {**figures, "measured": measured}
    RESULTS.write_text(json.dumps(kept, indent=2) + "\n")


def build_table(name: str, figures: Mapping[str, Any]) -> Iterator[str]:
    """Each figure, and the goal where there is one."""
    for path, value in flatten(figures, (name,)):
        if path[-1] not in {"lowest", "highest", "rounds"}:
            yield f"{'.'.join(path):<90} {value!s:>10}  {_find_goal(path)}".rstrip()


def flatten(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each value with the way to it."""
    if not isinstance(value, Mapping):
        yield path, value
        return
    for key, inner in value.items():
        yield from flatten(inner, (*path, key))


def _find_goal(path: tuple[str, ...]) -> str:
    dotted = ".".join(path)
    for pattern, goal in GOALS.items():
        before, star, after = pattern.partition("*")
        if dotted == pattern or (star and dotted.startswith(before) and dotted.endswith(after)):
            return goal
    return ""


if __name__ == "__main__":
    sys.exit(main())
