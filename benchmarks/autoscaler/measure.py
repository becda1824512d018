"""Tune the others on the first half, report everybody on the second, under both orders of the queue."""

import concurrent.futures
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from easel_contract.resource import QueueOrder
from easel_operator.simulation.lower_bound import find_lower_bound_seconds
from easel_operator.simulation.oracle.search import LATE_BUDGET_PERCENT
from easel_operator.simulation.policies.registry import ORACLE

from benchmarks.autoscaler.cases import Case, build_settings, load_part
from benchmarks.autoscaler.tasks import OURS, Task, run

HOUR_SECONDS: Final = 3600.0
BASELINES: Final[Mapping[str, Mapping[str, Sequence[float]]]] = {
    "hpa-queue": {"target": (1, 1.5, 2, 3), "downWindow": (60, 120, 300)},
    "hpa-gpu-utilisation": {"target": (50, 70, 85), "downWindow": (60, 120, 300)},
    "keda-queue": {"target": (1, 2, 3, 5), "cooldown": (60, 300)},
    "knative-concurrency": {"targetUtilisation": (50, 70, 90), "stableWindow": (60, 120, 300)},
    "ray-serve": {"target": (1, 2, 3), "downDelay": (120, 300, 600)},
}

Record = dict[str, Any]
Submit = Callable[[Task], "concurrent.futures.Future[Record]"]


def list_variants(kind: str) -> list[str]:
    """A baseline with its defaults, and at every point of its sweep."""
    grid = BASELINES[kind]
    points = itertools.product(*grid.values())
    return [kind, *(f"{kind}:" + ",".join(f"{k}={v:g}" for k, v in zip(grid, point, strict=True)) for point in points)]


def list_tasks(case: Case) -> list[Task]:
    """All simulations of a case that are known before the others are tuned; at their best they are ten more."""
    tuned = [] if case.is_shape else [name for kind in BASELINES for name in list_variants(kind)]
    return [
        task
        for order in QueueOrder
        for task in (
            *(Task(case, order, policy) for policy in (ORACLE, OURS, *BASELINES)),
            *(Task(case, order, policy, is_tuning=True) for policy in tuned),
        )
    ]


def find_best(records: Iterable[Mapping[str, Any]]) -> str:
    """The policy that is cheapest within the budget, or else least late."""
    return str(min(records, key=rank)["policy"])


def rank(record: Mapping[str, Any]) -> tuple[float, float]:
    """Smaller is better: within the budget first, then cheaper."""
    return max(record["late_percent"], LATE_BUDGET_PERCENT), record["gpu_hours"]


def measure(case: Case, submit: Submit) -> dict[str, Any]:
    """The case's figures by order and policy. Blocks."""
    begun = {order: _begin(case, order, submit) for order in QueueOrder}
    orders = {str(order): _finish(case, order, futures, submit) for order, futures in begun.items()}
    bound = find_lower_bound_seconds(
        load_part(case.trace, case.load, is_first=False), build_settings(case, QueueOrder.TARGET_FIRST)
    )
    return {**case.key, "lower_bound_gpu_hours": round(bound / HOUR_SECONDS, 3), "orders": orders}


_Futures = Mapping[str, "concurrent.futures.Future[Record]"]


def _begin(case: Case, order: QueueOrder, submit: Submit) -> tuple[_Futures, _Futures]:
    """What is reported whatever the tuning says, the longest first; and the tuning."""
    reported = {policy: submit(Task(case, order, policy)) for policy in (ORACLE, OURS, *BASELINES)}
    variants = [] if case.is_shape else [name for kind in BASELINES for name in list_variants(kind)]
    return reported, {name: submit(Task(case, order, name, is_tuning=True)) for name in variants}


def _finish(case: Case, order: QueueOrder, begun: tuple[_Futures, _Futures], submit: Submit) -> dict[str, Record]:
    reported, tuning = begun
    tuned = {name: future.result() for name, future in tuning.items()}
    chosen = [find_best(tuned[name] for name in list_variants(kind)) for kind in BASELINES] if tuned else []
    late = {name: submit(Task(case, order, name)) for name in chosen if name not in reported}
    records = {name: future.result() for name, future in {**reported, **late}.items()}
    oracle = records[ORACLE]["gpu_hours"]
    return {
        name: {**record, "gpu_hours_over_oracle": round(record["gpu_hours"] / oracle, 3) if oracle else None}
        for name, record in records.items()
    }


def list_wins_over_oracle(records: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Who did better than the oracle of the same order, the best first: the oracle's fault, unless somebody had
    to wait for longer than the oracle lets anybody, three targets."""
    oracle = records[ORACLE]
    for name, record in sorted(records.items(), key=lambda item: rank(item[1])):
        if rank(record) < rank(oracle):
            yield (
                f"{name}: {record['late_percent']:.1f} % late, {record['gpu_hours']:.1f} GPU-hours, at most "
                f"{record['max_seconds']:.0f} s; the oracle {oracle['late_percent']:.1f} %, "
                f"{oracle['gpu_hours']:.1f}, {oracle['max_seconds']:.0f} s"
            )


def make_submit(pool: concurrent.futures.Executor, store: Path | None) -> Submit:
    """Simulations in ``pool``, their results kept in ``store``."""
    return lambda task: pool.submit(run, task, store)
