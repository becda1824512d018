"""``make bench-autoscaler``: Easel's defaults against others' autoscalers at their best, in the simulator.

Every trace is cut in half: the others are swept on the first half, and everybody is reported on the second, under both
orders of the queue. Another's best is its cheapest setting that was late with at most 5 % of the first half, or its
least late one. Easel has one setting for everything, the defaults that a user gets. Beside the traces stand loads of
one kind each (shapes.py), simulated as a whole.

Traces are CSV with the columns arrival_seconds and work_seconds; one that spans days is also scaled up. Each case is
written as soon as it is measured, and a simulation that was made before with the same code isn't made again.
"""

import argparse
import concurrent.futures
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.autoscaler.cases import Case, list_cases
from benchmarks.autoscaler.goals import find_missed_goals
from benchmarks.autoscaler.measure import list_tasks, list_wins_over_oracle, make_submit, measure
from benchmarks.autoscaler.tables import write_tables
from benchmarks.autoscaler.tasks import is_known
from benchmarks.record import build_provenance

ROOT: Final = Path(__file__).parents[2]
RESULTS: Final = ROOT / "benchmarks/results/autoscaler.json"
STORE: Final = ROOT / ".state/bench-autoscaler"
MACHINE: Final = "machine"


def main() -> int:
    """Exit code 0; a missed goal is a figure like any other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("traces", type=Path, nargs="*", help="CSV files")
    parser.add_argument(
        "--only", action="append", default=[], metavar="WORDS", help='cases whose name has all words: "bursty 90/30"'
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--estimate", action="store_true", help="only tell the cases, and the time they take")
    parser.add_argument("--tables", action="store_true", help="only write the tables of what is stored")
    parser.add_argument("--dry", action="store_true", help="print only, leave result file and tables alone")
    arguments = parser.parse_args()
    cases = [] if arguments.tables else list_cases(arguments.traces, arguments.only)
    STORE.mkdir(parents=True, exist_ok=True)
    if cases:
        print_estimate(cases)
    if arguments.estimate:
        return 0
    for result in measure_all(cases, arguments.jobs):
        print_result(result)
        if not arguments.dry:
            write(result)
    if not arguments.dry:
        write_tables(read(), ROOT)
    return 0


def measure_all(cases: Sequence[Case], jobs: int) -> Iterable[dict[str, Any]]:
    """Each case as soon as it is whole. Two are under way at a time, so that no process waits for the other's last."""
    with (
        concurrent.futures.ProcessPoolExecutor(jobs) as pool,
        concurrent.futures.ThreadPoolExecutor(2) as threads,
    ):
        measured = build_provenance()
        results = threads.map(measure, cases, [make_submit(pool, STORE)] * len(cases))
        for result in results:
            yield {**result, "measured": {key: value for key, value in measured.items() if key != MACHINE}}


def read() -> dict[str, Any]:
    """What is stored."""
    stored: dict[str, Any] = json.loads(RESULTS.read_text())
    return stored


def write(result: Mapping[str, Any]) -> None:
    """A case into the result file, in the place of its earlier record; what wasn't measured stays."""
    stored = read() if RESULTS.exists() else {"cases": []}
    others = [each for each in stored["cases"] if identify(each) != identify(result)]
    cases = sorted([*others, result], key=identify)
    text = json.dumps({MACHINE: build_provenance()[MACHINE], "cases": cases}, indent=1)
    whole = RESULTS.with_suffix(".part")
    whole.write_text(text + "\n")
    whole.replace(RESULTS)


def identify(result: Mapping[str, Any]) -> tuple[str, str, int, int]:
    """What tells a case's record from others'."""
    return result["trace"], result["load"], result["cold_start_seconds"], result["target_seconds"]


def print_estimate(cases: Sequence[Case]) -> None:
    """What there is to do, before it is begun."""
    total = 0.0
    for case in cases:
        todo = [task for task in list_tasks(case) if not is_known(task, STORE)]
        seconds = sum(task.estimate_seconds() for task in todo)
        total += seconds
        print(f"{case.name:<40} {len(todo):>4} simulations to make, some {seconds / 60:.1f} min of one core")
    print(f"{len(cases)} cases, some {total / 60:.0f} min of one core", flush=True)


def print_result(result: Mapping[str, Any]) -> None:
    """All its figures, what it misses, and where somebody did better than the oracle."""
    trace, load, cold_start, target = identify(result)
    bound = result["lower_bound_gpu_hours"]
    for order, records in result["orders"].items():
        print(f"\n{trace} {load}, start {cold_start} s, target {target} s, {order}; at least {bound:.1f} GPU-hours")
        for name, record in records.items():
            print(
                f"  {name:<48} {record['late_percent']:>6.2f} % late {record['worst_hour_late_percent']:>6.1f} % worst"
                f" hour p99 {_seconds(record['p99_seconds'])} max {_seconds(record['max_seconds'])}"
                f" {record['gpu_hours']:>8.1f} GPU-h {record['gpu_hours_over_oracle'] or 0:>6.2f} x oracle"
                f" {record['starts']:>6} starts {record['cpu_seconds']:>6.1f} s of processor"
            )
        for goal in find_missed_goals(result, order):
            print(f"  missed: {goal}")
        for win in list_wins_over_oracle(records):
            print(f"  THE ORACLE IS BEATEN by {win}", flush=True)


def _seconds(value: float | None) -> str:
    return f"{'-' if value is None else round(value):>6} s"


if __name__ == "__main__":
    sys.exit(main())
