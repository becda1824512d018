"""What Easel's defaults fall short of, in sentences. Pure: a case's stored record in, text out."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from easel_contract.resource import QueueOrder
from easel_operator.simulation.oracle.search import LATE_BUDGET_PERCENT
from easel_operator.simulation.policies.registry import ORACLE

from benchmarks.autoscaler.cases import BURSTY, SHAPE, SMOOTH
from benchmarks.autoscaler.shapes import SHAPES
from benchmarks.autoscaler.tasks import OURS

GOAL_TARGET_SECONDS: Final = 30
# GPU-hours over the oracle's of the same order, by order, load and cold start.
GOALS_OVER_ORACLE: Final[Mapping[tuple[str, str, int], float]] = {
    (QueueOrder.TARGET_FIRST, BURSTY, 90): 1.5,
    (QueueOrder.TARGET_FIRST, SMOOTH, 90): 1.15,
    (QueueOrder.FIRST_COME_FIRST_SERVED, BURSTY, 90): 2.0,
    (QueueOrder.FIRST_COME_FIRST_SERVED, SMOOTH, 90): 1.2,
    (QueueOrder.TARGET_FIRST, BURSTY, 30): 1.25,
    (QueueOrder.TARGET_FIRST, SMOOTH, 30): 1.15,
}

Case = Mapping[str, Any]


def find_goal(case: Case, order: str) -> float | None:
    """How many times the oracle's GPU-hours are allowed; None where nothing was promised."""
    if case["target_seconds"] != GOAL_TARGET_SECONDS:
        return None
    return GOALS_OVER_ORACLE.get((order, case["load"], case["cold_start_seconds"]))


def is_budget_kept(record: Mapping[str, Any]) -> bool:
    """Whether no more than the budget's share was late."""
    return bool(record["late_percent"] <= LATE_BUDGET_PERCENT)


def find_missed_goals(case: Case, order: str) -> Iterator[str]:
    """All of one order."""
    records = case["orders"][order]
    if case["load"] == SHAPE:
        yield from _find_missed_of_shape(case["trace"], records[OURS])
        return
    ours, oracle = records[OURS], records[ORACLE]
    if is_budget_kept(oracle) and not is_budget_kept(ours):
        yield f"{ours['late_percent']:.1f} % late, where {LATE_BUDGET_PERCENT:g} % can be kept"
    goal = find_goal(case, order)
    if goal is not None and ours["gpu_hours_over_oracle"] > goal:
        yield f"{ours['gpu_hours_over_oracle']:.2f} x oracle, goal {goal:g}"
    for name, record in records.items():
        is_better = record["late_percent"] <= ours["late_percent"] and record["gpu_hours"] < ours["gpu_hours"]
        if name not in {OURS, ORACLE} and is_better:
            yield f"{name} is no later and needs {record['gpu_hours']:.1f} GPU-hours, not {ours['gpu_hours']:.1f}"
    if ours["jobs_handed_back"]:
        yield f"{ours['jobs_handed_back']} jobs handed back by pods that were scaled down"


def _find_missed_of_shape(name: str, ours: Mapping[str, Any]) -> Iterator[str]:
    shape = SHAPES[name]
    if shape.goal_gpu_hours is not None and ours["gpu_hours"] > shape.goal_gpu_hours:
        yield f"{ours['gpu_hours']:.1f} GPU-hours, goal {shape.goal_gpu_hours:g}"
    if shape.goal_late_percent is not None and ours["late_percent"] > shape.goal_late_percent:
        yield f"{ours['late_percent']:.1f} % late, goal {shape.goal_late_percent:g}"
