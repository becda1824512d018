"""``python -m benchmarks.adapters [NAME...]``: into benchmarks/results/adapters.json and as a table.

Each part is written as soon as it is measured; one that isn't keeps its last figures and date.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.engine.__main__ import ENV_TORCH_THREADS, TORCH_THREADS, flatten
from benchmarks.record import build_provenance
from benchmarks.server.processes import ROOT

RESULTS: Final = ROOT / "benchmarks/results/adapters.json"
MEMORY: Final = "memory"
NAMES: Final = ("sd15", MEMORY, "sdxl")
STEPS: Final = 8
WIDTH: Final = 8  # jobs at once
ROUNDS: Final = 7
QUICK_ROUNDS: Final = 2
SWITCHES: Final = 1000
QUICK_SWITCHES: Final = 50
SWITCHES_A_ROUND: Final = 7
COUNTS: Final = (1, 10, 100)  # adapters in rotation
MEMORY_ADAPTERS: Final = 20
MEMORY_ROOM: Final = 10.5  # adapters: of the twenty each is gone when its turn comes again
GOALS: Final = {"images.adapters=10_over_none.by_cpu.median": 0.9}


def main() -> int:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(NAMES)}; default: all")
    parser.add_argument("--dry", action="store_true", help="print only, leave the result file alone")
    parser.add_argument("--quick", action="store_true", help="few rounds: to see that it works, not for figures")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="fewer on a busy machine")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(NAMES):
        parser.error(f"no measurement is called {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    os.environ.setdefault(ENV_TORCH_THREADS, TORCH_THREADS)
    for name in arguments.names or NAMES:
        load_before, began = os.getloadavg()[0], time.monotonic()
        sys.stderr.write(f"measuring {name} (load average {load_before:.2f})\n")
        figures = measure(name, QUICK_ROUNDS if arguments.quick else arguments.rounds, quick=arguments.quick)
        if not arguments.dry:
            write(name, figures, load_before, time.monotonic() - began)
        sys.stdout.write("".join(f"{line}\n" for line in build_table(name, figures)))
        sys.stdout.flush()
    return 0


def measure(name: str, rounds: int, *, quick: bool) -> dict[str, Any]:
    """All figures of a part, in this process."""
    from easel_server.engine.loading import prepare_libraries  # noqa: PLC0415

    prepare_libraries()
    warnings.filterwarnings("ignore")  # libraries' own
    import torch  # noqa: PLC0415

    torch.set_num_threads(int(os.environ[ENV_TORCH_THREADS]))
    from benchmarks.engine.models import SD15, SDXL  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="easel-bench-") as directory:
        files = Path(directory) / "adapters"
        if name == MEMORY:
            return _measure_memory(files, QUICK_SWITCHES if quick else SWITCHES)
        return _measure_model({"sd15": SD15, "sdxl": SDXL}[name], files, rounds, counts=(1, 10) if quick else COUNTS)


def _measure_model(model: Any, files: Path, rounds: int, *, counts: Sequence[int]) -> dict[str, Any]:
    from benchmarks.adapters import measure as parts  # noqa: PLC0415  # loads torch
    from benchmarks.engine.jobs import build_engine  # noqa: PLC0415  # loads torch

    pipeline = model.build()
    pipeline.set_progress_bar_config(disable=True)
    configs = parts.write_adapters(files, pipeline, max(counts))
    return {
        "model": model.name,
        "device": "cpu",
        "steps": STEPS,
        "adapter": parts.describe_adapters(pipeline, configs),
        "switch": parts.measure_switches(pipeline, configs, SWITCHES_A_ROUND * rounds),
        "images": parts.measure_rotation(
            build_engine(pipeline, model.name), _jobs_of(model), configs, counts=counts, width=WIDTH, rounds=rounds
        ),
    }


def _measure_memory(files: Path, switches: int) -> dict[str, Any]:
    """On a tiny model: what a process keeps doesn't depend on widths."""
    import torch  # noqa: PLC0415
    from easel_server.engine.add_ons.residency import Residency  # noqa: PLC0415

    from benchmarks.adapters import measure as parts  # noqa: PLC0415  # loads torch
    from benchmarks.engine.jobs import build_engine  # noqa: PLC0415  # loads torch
    from benchmarks.engine.models import TINY  # noqa: PLC0415  # loads torch

    pipeline = TINY.build()
    pipeline.set_progress_bar_config(disable=True)
    configs = parts.write_adapters(files, pipeline, MEMORY_ADAPTERS)
    size_bytes = parts.describe_adapters(pipeline, configs)["bytes"]
    residency = Residency(torch.device("cpu"), int(MEMORY_ROOM * size_bytes), 0)
    engine = build_engine(pipeline, TINY.name, residency=residency)
    return {
        "model": TINY.name,
        "room_for_adapters": int(MEMORY_ROOM),
        **parts.measure_memory(engine, residency, _jobs_of(TINY), configs, switches),
    }


def _jobs_of(model: Any) -> Callable[[int, Mapping[str, Any]], Any]:
    """Each with a prompt of its own, so that it is encoded."""
    return lambda number, fields: model.parameters(seed=number, steps=STEPS, prompt=f"a pier, {number}", **fields)


def write(name: str, figures: Mapping[str, Any], load_before: float, seconds: float) -> None:
    """Into the result file."""
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    measured = {
        **build_provenance(),
        "load_average_before": round(load_before, 2),
        "seconds": round(seconds),
        "torch_threads": int(os.environ[ENV_TORCH_THREADS]),
        "processors_allowed": len(os.sched_getaffinity(0)),
    }
    kept[name] = {**figures, "measured": measured}
    RESULTS.write_text(json.dumps(kept, indent=2) + "\n")


def build_table(name: str, figures: Mapping[str, Any]) -> list[str]:
    """Each figure with the goal, and whether it is met, where there is one."""
    lines = []
    for path, value in flatten(figures, ()):
        goal = GOALS.get(".".join(path))
        verdict = (
            "" if goal is None else f"at least {goal}: {'met' if value >= goal else f'missed by {goal - value:.3f}'}"
        )
        lines.append(f"{'.'.join((name, *path)):<90} {value!s:>12}  {verdict}".rstrip())
    return lines


if __name__ == "__main__":
    sys.exit(main())
