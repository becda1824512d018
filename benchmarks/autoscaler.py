"""``make bench-autoscaler``: Easel's defaults against others' autoscalers at their best, in the simulator.

Every trace in the folder is cut in half: baselines are swept on the first half, and everybody is reported on the
second. A baseline's best is its cheapest setting that was late with at most LATE_BUDGET_PERCENT of the first half, or
its least late one. Easel has one setting for everything, the defaults that a user gets.

Traces are CSV with the columns arrival_seconds and work_seconds. One that spans days is also scaled up.
"""

import argparse
import concurrent.futures
import functools
import itertools
import json
import os
import random
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from easel_contract.resource import StableDiffusionServiceSpec
from easel_operator.simulation.lower_bound import find_lower_bound_seconds
from easel_operator.simulation.oracle.search import LATE_BUDGET_PERCENT, find_oracle
from easel_operator.simulation.policies.registry import ORACLE, build_policy
from easel_operator.simulation.settings import ColdStart, Settings
from easel_operator.simulation.simulation import simulate
from easel_operator.simulation.trace import Trace, cut, parse_trace, upscale

from benchmarks.record import build_provenance

RESULTS: Final = Path(__file__).parent / "results/autoscaler.json"
OURS: Final = "easel"
SEED: Final = 1
COLD_STARTS_SECONDS: Final = (30, 90, 300)
TARGETS_SECONDS: Final = (15, 30, 60)
MAX_REPLICAS: Final = 200
HOUR_SECONDS: Final = 3600.0
LONG_TRACE_SECONDS: Final = 86_400.0
BURSTY: Final = "x20 bursty"
SMOOTH: Final = "x20 smooth"
LOADS: Final[Mapping[str, tuple[int, float]]] = {"x1": (1, 0.0), BURSTY: (20, 60.0), SMOOTH: (20, 600.0)}
GOALS_OVER_ORACLE: Final = {BURSTY: 1.5, SMOOTH: 1.25}
GOAL_COLD_START_SECONDS: Final = 90

BASELINES: Final[Mapping[str, Mapping[str, Sequence[float]]]] = {
    "hpa-queue": {"target": (1, 1.5, 2, 3), "downWindow": (60, 120, 300)},
    "hpa-gpu-utilisation": {"target": (50, 70, 85), "downWindow": (60, 120, 300)},
    "keda-queue": {"target": (1, 2, 3, 5), "cooldown": (60, 300)},
    "knative-concurrency": {"targetUtilisation": (50, 70, 90), "stableWindow": (60, 120, 300)},
    "ray-serve": {"target": (1, 2, 3), "downDelay": (120, 300, 600)},
}


@dataclass(frozen=True)
class Case:
    """One trace, load, cold start and target."""

    trace: str
    load: str
    cold_start_seconds: int
    target_seconds: int


@dataclass(frozen=True)
class Task:
    """One simulation."""

    case: Case
    policy: str
    is_tuning: bool


def list_cases(traces: Sequence[Path], *, is_quick: bool) -> list[Case]:
    """All combinations; with ``is_quick`` only the goals' cold start and the middle target."""
    colds = (GOAL_COLD_START_SECONDS,) if is_quick else COLD_STARTS_SECONDS
    targets = (TARGETS_SECONDS[1],) if is_quick else TARGETS_SECONDS
    return [
        Case(str(path), load, cold_start, target)
        for path in traces
        for load in (LOADS if load_file(str(path)).duration_seconds >= LONG_TRACE_SECONDS else ("x1",))
        for cold_start in colds
        for target in targets
    ]


def list_variants(kind: str) -> list[str]:
    """A baseline with its defaults, and at every point of its sweep."""
    grid = BASELINES[kind]
    points = itertools.product(*grid.values())
    return [kind, *(f"{kind}:" + ",".join(f"{k}={v:g}" for k, v in zip(grid, point, strict=True)) for point in points)]


@functools.cache
def load_file(path: str) -> Trace:
    with Path(path).open(encoding="utf-8", newline="") as lines:
        return parse_trace(lines, path)


@functools.cache
def load_half(path: str, load: str, *, is_first: bool) -> Trace:
    """Half of a trace under a load."""
    trace = load_file(path)
    copies, jitter_seconds = LOADS[load]
    scaled = upscale(trace, copies, jitter_seconds, random.Random(SEED))  # noqa: S311
    middle = trace.duration_seconds / 2
    return cut(scaled, 0.0, middle) if is_first else cut(scaled, middle, trace.duration_seconds)


def build_settings(case: Case) -> Settings:
    scaling = {"minReplicas": 0, "maxReplicas": MAX_REPLICAS, "targetLatencySeconds": case.target_seconds}
    spec = {"model": {"source": {"huggingFace": {"repository": "any/model"}}}, "scaling": scaling}
    return Settings(StableDiffusionServiceSpec.model_validate(spec), ColdStart(case.cold_start_seconds), SEED)


def run(task: Task) -> dict[str, Any]:
    """The figures of one simulation."""
    trace = load_half(task.case.trace, task.case.load, is_first=task.is_tuning)
    settings = build_settings(task.case)
    if task.policy == ORACLE:
        outcome = find_oracle(trace, settings)
    else:
        outcome = simulate(trace, build_policy(task.policy, settings), settings)
    return outcome.to_record()


def find_bound_gpu_hours(case: Case) -> float:
    """What no plan for the reported half can go below."""
    trace = load_half(case.trace, case.load, is_first=False)
    return round(find_lower_bound_seconds(trace, build_settings(case)) / HOUR_SECONDS, 3)


def find_best(records: Iterable[Mapping[str, Any]]) -> str:
    """The policy that is cheapest within the budget, or else least late."""
    return str(
        min(records, key=lambda record: (max(record["late_percent"], LATE_BUDGET_PERCENT), record["gpu_hours"]))[
            "policy"
        ]
    )


def measure(case: Case, pool: concurrent.futures.Executor) -> dict[str, Any]:
    """Tune, then report: the case's figures by policy."""
    oracle = pool.submit(run, Task(case, ORACLE, False))  # the longest task of all, so it is begun first
    variants = [name for kind in BASELINES for name in list_variants(kind)]
    tuned = dict(zip(variants, pool.map(run, [Task(case, name, True) for name in variants]), strict=True))
    chosen = [find_best(tuned[name] for name in list_variants(kind)) for kind in BASELINES]
    reported = list(dict.fromkeys((OURS, *BASELINES, *chosen)))
    records = dict(zip(reported, pool.map(run, [Task(case, name, False) for name in reported]), strict=True))
    return build_result(case, {ORACLE: oracle.result(), **records})


def measure_ours(
    cases: Sequence[Case], stored: Sequence[Mapping[str, Any]], pool: concurrent.futures.Executor
) -> Iterator[dict[str, Any]]:
    """Easel anew, beside what is stored of the others, who are the same in each run.

    Raises KeyError for a case that isn't stored.
    """
    known = {(each["trace"], each["load"], each["cold_start_seconds"], each["target_seconds"]): each for each in stored}
    for case, record in zip(cases, pool.map(run, [Task(case, OURS, False) for case in cases]), strict=True):
        before = known[Path(case.trace).name, case.load, case.cold_start_seconds, case.target_seconds]
        yield build_result(case, {**before["policies"], OURS: record})


def build_result(case: Case, records: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    for record in records.values():
        record["gpu_hours_over_oracle"] = round(record["gpu_hours"] / records[ORACLE]["gpu_hours"], 3)
    return {
        **asdict(case),
        "trace": Path(case.trace).name,
        "lower_bound_gpu_hours": find_bound_gpu_hours(case),
        "missed_goals": list(find_missed_goals(case, records)),
        "policies": records,
    }


def find_missed_goals(case: Case, records: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What Easel's defaults fall short of, in sentences."""
    ours, oracle = records[OURS], records[ORACLE]
    if ours["late_percent"] > LATE_BUDGET_PERCENT >= oracle["late_percent"]:
        yield f"{ours['late_percent']:.1f} % late, where {LATE_BUDGET_PERCENT:g} % can be kept"
    goal = GOALS_OVER_ORACLE.get(case.load)
    if goal is not None and case.cold_start_seconds == GOAL_COLD_START_SECONDS and ours["gpu_hours_over_oracle"] > goal:
        yield f"{ours['gpu_hours_over_oracle']:.2f} x oracle, goal {goal:g}"
    for name, record in records.items():
        is_better = record["late_percent"] <= ours["late_percent"] and record["gpu_hours"] < ours["gpu_hours"]
        if name not in {OURS, ORACLE} and is_better:
            yield f"{name} is no later and needs {record['gpu_hours']:.1f} GPU-hours, not {ours['gpu_hours']:.1f}"
    if ours["busy_pods_killed"]:
        yield f"{ours['busy_pods_killed']} pods busy when chosen, {ours['jobs_handed_back']} jobs handed back"


def print_result(result: Mapping[str, Any]) -> None:
    where = f"{result['trace']} {result['load']}, start {result['cold_start_seconds']} s"
    print(f"\n{where}, target {result['target_seconds']} s; at least {result['lower_bound_gpu_hours']:.1f} GPU-hours")
    for name, record in result["policies"].items():
        print(
            f"  {name:<48} {record['late_percent']:>6.2f} % late {record['gpu_hours']:>9.1f} GPU-h"
            f" {record['gpu_hours_over_oracle']:>6.2f} x oracle {record['starts']:>7} starts"
            f" {record['busy_pods_killed']:>6} busy when chosen {record['jobs_handed_back']:>4} handed back"
        )
    for goal in result["missed_goals"]:
        print(f"  missed: {goal}", flush=True)


def main() -> int:
    """Exit code 0; a missed goal is a figure like any other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("traces", type=Path, nargs="+", help="CSV files")
    parser.add_argument("--quick", action="store_true", help="one cold start, one target; the result isn't stored")
    parser.add_argument("--ours", action="store_true", help="measure Easel only; the others' stored figures stay")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    arguments = parser.parse_args()
    cases = list_cases(arguments.traces, is_quick=arguments.quick)
    stored = json.loads(RESULTS.read_text()) if arguments.ours else {}
    with concurrent.futures.ProcessPoolExecutor(arguments.jobs) as pool:
        measuring = (
            measure_ours(cases, stored["cases"], pool) if arguments.ours else (measure(case, pool) for case in cases)
        )
        results = []
        for result in measuring:
            print_result(result)
            results.append(result)
    if not arguments.quick:
        measured = build_provenance()
        record = {"measured": measured, **stored, "measured_ours": measured, "seed": SEED, "cases": results}
        RESULTS.write_text(json.dumps(record, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
