"""The tables in docs/platform/autoscaling.md and README.md, from what is stored: nobody copies a figure by hand.

In the page they stand between two comments; in the README it is one row of a table, known by how it begins.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from easel_contract.resource import QueueOrder
from easel_operator.simulation.policies.registry import ORACLE

from benchmarks.autoscaler.cases import BURSTY, LOADS, SHAPE, SMOOTH
from benchmarks.autoscaler.goals import find_goal, find_missed_goals, is_budget_kept
from benchmarks.autoscaler.measure import BASELINES, list_wins_over_oracle, rank
from benchmarks.autoscaler.shapes import SHAPES
from benchmarks.autoscaler.tasks import OURS
from benchmarks.pages import replace_part, replace_row

PAGE: Final = "docs/platform/autoscaling.md"
README: Final = "README.md"
PART: Final = "make bench-autoscaler"
README_ROW: Final = "| GPU-hours over an offline plan that knows the future"
NOT_MEASURED: Final = "not measured"

Case = Mapping[str, Any]
Records = Mapping[str, Mapping[str, Any]]


def write_tables(stored: Mapping[str, Any], root: Path) -> None:
    """Into the files of a checkout. ValueError where a file has no place for them."""
    page, readme = root / PAGE, root / README
    page.write_text(replace_part(page.read_text(), PART, build_page(stored["cases"])))
    readme.write_text(replace_row(readme.read_text(), README_ROW, build_readme_row(stored["cases"])))


def build_page(cases: Sequence[Case]) -> str:
    """Markdown: a table of the traces for each order, the systems, the shapes; what is missed, and measured when."""
    of_traces = [case for case in cases if case["load"] != SHAPE]
    of_shapes = [case for case in cases if case["load"] == SHAPE]
    lines: list[str] = []
    newest = max((case["measured"]["date"] for case in cases), default="")
    for order in QueueOrder:
        rows = list(_list_traces(of_traces, order, newest))
        if rows:
            lines += [f"**{order}** (all in this order, the oracle too)", "", *TRACE_HEAD, *rows, ""]
            lines += [*_list_summary([case for case in of_traces if _is_of(case, newest)], order), ""]
    systems = list(_list_systems(of_traces))
    if systems:
        lines += ["**Systems** (Easel with its default, the others in the order of arrival as they come)", ""]
        lines += [*SYSTEM_HEAD, *systems, ""]
    if of_shapes:
        lines += [
            "**Shapes** (cold start 90 s, target 30 s, at most 50 pods, 100 for the steep start; the others have their "
            "defaults; bold: missed)",
            "",
        ]
        lines += [*SHAPE_HEAD, *_list_shapes(of_shapes), ""]
    return "\n".join([*lines, _say_when(cases, newest), ""])


TRACE_HEAD: Final = (
    "| load | cold start | target | late | worst hour | p99 | longest | GPU-hours | over the oracle's (its late) "
    "| starts | best of the others |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
)
SYSTEM_HEAD: Final = (
    "| load | cold start | target | Easel: late, worst hour, p99, longest | GPU-hours "
    "| best other: late, worst hour, p99, longest | GPU-hours |",
    "| --- | --- | --- | --- | --- | --- | --- |",
)
SHAPE_HEAD: Final = (
    "| shape | order | late | worst hour | p99 | longest | GPU-hours | goal | oracle's | best of the others |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
)


def _list_traces(cases: Sequence[Case], order: str, newest: str) -> Iterator[str]:
    for case in sorted(cases, key=_place):
        records = case["orders"].get(order)
        if not records:
            continue
        ours, oracle, best = records[OURS], records[ORACLE], find_best_other(records)
        goal = find_goal(case, order)
        over = f"{ours['gpu_hours_over_oracle']:.2f}{'' if goal is None else f', goal {goal:g}'}"
        yield (
            f"| {_name(case)}{'' if _is_of(case, newest) else ' *'} | {case['cold_start_seconds']} s "
            f"| {case['target_seconds']} s | {_late(ours)} | {ours['worst_hour_late_percent']:.0f} % "
            f"| {_seconds(ours['p99_seconds'])} "
            f"| {_seconds(ours['max_seconds'])} | {ours['gpu_hours']:.1f} | {over} ({_late(oracle)}) "
            f"| {ours['starts']} | `{best['policy']}` {_late(best)}, {best['gpu_hours']:.1f} |"
        )


def _list_summary(cases: Sequence[Case], order: str) -> Iterator[str]:
    measured = [case for case in cases if order in case["orders"]]
    possible = [case for case in measured if is_budget_kept(case["orders"][order][ORACLE])]
    missed = [case for case in possible if not is_budget_kept(case["orders"][order][OURS])]
    yield (
        f"The oracle keeps 5 % in {len(possible)} of {len(measured)} cases, Easel in {len(possible) - len(missed)} of "
        f"these{'; not in ' if missed else ''}{', '.join(_title(case) for case in missed)}."
    )
    for case in measured:
        yield from _list_missed(case, order)
    for case in measured:
        wins = list(list_wins_over_oracle(case["orders"][order]))
        if wins:
            others = f", and {len(wins) - 1} more" if len(wins) > 1 else ""
            yield f"The oracle isn't the best in {_title(case)}: {wins[0]}{others}."


def _list_missed(case: Case, order: str) -> Iterator[str]:
    """Of several others that are better, the one that is told of is the cheapest."""
    records = case["orders"][order]
    ours, goal = records[OURS], find_goal(case, order)
    if goal is not None and ours["gpu_hours_over_oracle"] > goal:
        yield f"Missed: {_title(case)}, {ours['gpu_hours_over_oracle']:.2f} times the oracle's, goal {goal:g}."
    better = [
        record
        for name, record in records.items()
        if name.partition(":")[0] in BASELINES
        and record["late_percent"] <= ours["late_percent"]
        and record["gpu_hours"] < ours["gpu_hours"]
    ]
    best = min(better, key=lambda record: record["gpu_hours"], default=None)
    if best is not None:
        yield f"Cheaper and no later in {_title(case)}: `{best['policy']}` {_late(best)}, {best['gpu_hours']:.1f}."


def _list_systems(cases: Sequence[Case]) -> Iterator[str]:
    for case in sorted(cases, key=_place):
        orders = case["orders"]
        if set(orders) != {str(order) for order in QueueOrder}:
            continue
        ours = orders[QueueOrder.TARGET_FIRST][OURS]
        best = find_best_other(orders[QueueOrder.FIRST_COME_FIRST_SERVED])
        yield (
            f"| {_name(case)} | {case['cold_start_seconds']} s | {case['target_seconds']} s | {_lateness(ours)} "
            f"| {ours['gpu_hours']:.1f} | `{best['policy']}` {_lateness(best)} | {best['gpu_hours']:.1f} |"
        )


def _list_shapes(cases: Sequence[Case]) -> Iterator[str]:
    places = list(SHAPES)
    for case in sorted(cases, key=lambda case: places.index(case["trace"])):
        shape = SHAPES[case["trace"]]
        for order, records in case["orders"].items():
            ours, oracle, best = records[OURS], records[ORACLE], find_best_other(records)
            goal = "" if shape.goal_gpu_hours is None else f"{shape.goal_gpu_hours:g}"
            goal += "" if shape.goal_late_percent is None else f" at {shape.goal_late_percent:g} %"
            yield (
                f"| {case['trace']}: {shape.sentence} | {order} | {_late(ours)} "
                f"| {ours['worst_hour_late_percent']:.0f} % | {_seconds(ours['p99_seconds'])} "
                f"| {_seconds(ours['max_seconds'])} | {_missed(case, order, ours)} | {goal or '-'} "
                f"| {oracle['gpu_hours']:.1f} at {_late(oracle)} "
                f"| `{best['policy']}` {_late(best)}, {best['gpu_hours']:.1f} |"
            )


def _missed(case: Case, order: str, ours: Mapping[str, Any]) -> str:
    """GPU-hours, bold where a shape's goal is missed, in hours or lateness."""
    hours = f"{ours['gpu_hours']:.1f}"
    return f"**{hours}**" if any(find_missed_goals(case, order)) else hours


def build_readme_row(cases: Sequence[Case]) -> str:
    """The goals' case in one row: smooth and bursty in each order, and the best of the others."""
    parts = [_say_order(cases, order) for order in QueueOrder]
    return (
        f"{README_ROW}, 5 % late at most, cold start 90 s, target 30 s, a real trace x20 | "
        + ("; ".join(part for part in parts if part) or NOT_MEASURED)
        + " |"
    )


def _say_order(cases: Sequence[Case], order: str) -> str:
    figures, others = [], []
    for load in (SMOOTH, BURSTY):
        case = next((case for case in cases if _is_main(case, load) and order in case["orders"]), None)
        if case is None:
            return ""
        records = case["orders"][order]
        goal, over = find_goal(case, order), records[OURS]["gpu_hours_over_oracle"]
        is_missed = goal is not None and over > goal
        shown = f"**{over:.2f}**" if is_missed else f"{over:.2f}"
        late = "" if is_budget_kept(records[OURS]) else f" at {_late(records[OURS])} late"
        said = "" if goal is None else f" (goal {goal:g}{', missed' if is_missed else ''})"
        figures.append(f"{load.removeprefix('x20 ')} {shown}{late}{said}")
        others.append(f"{find_best_other(records)['gpu_hours_over_oracle']:.2f}")
    return f"{order}: {', '.join(figures)}; best-tuned of HPA, KEDA, Knative and Ray Serve {' and '.join(others)}"


def find_best_other(records: Records) -> Mapping[str, Any]:
    """The best of the others, as their owner would choose it from the figures of the same half."""
    return min((record for name, record in records.items() if name.partition(":")[0] in BASELINES), key=rank)


def _is_main(case: Case, load: str) -> bool:
    return (case["load"], case["cold_start_seconds"], case["target_seconds"]) == (load, 90, 30)


def _place(case: Case) -> tuple[str, int, int, int]:
    return case["trace"], list(LOADS).index(case["load"]), case["cold_start_seconds"], case["target_seconds"]


def _name(case: Case) -> str:
    return f"{case['trace'].partition('_')[0].partition('.')[0]} {case['load']}"


def _title(case: Case) -> str:
    return f"{_name(case)} {case['cold_start_seconds']}/{case['target_seconds']}"


def _late(record: Mapping[str, Any]) -> str:
    return f"{record['late_percent']:.1f} %"


def _lateness(record: Mapping[str, Any]) -> str:
    worst = f"{record['worst_hour_late_percent']:.0f} %"
    return f"{_late(record)}, {worst}, {_seconds(record['p99_seconds'])}, {_seconds(record['max_seconds'])}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} s"


def _is_of(case: Case, date: str) -> bool:
    return bool(case["measured"]["date"] == date)


def _say_when(cases: Sequence[Case], newest: str) -> str:
    """Rows of an earlier day have an asterisk: planner, oracle and simulator may have been others."""
    moments = sorted({(case["measured"]["date"], case["measured"]["commit"]) for case in cases})
    now = ", ".join(f"`{commit}`" for date, commit in moments if date == newest)
    before = ", ".join(f"{date} at `{commit}`" for date, commit in moments if date != newest)
    return f"Measured {newest} at {now}" + (f"; rows with * {before}, in no count." if before else ".")
