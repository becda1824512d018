"""The tables in docs/platform/simulate.md and README.md, from what is stored: nobody copies a figure by hand. Pure
but for ``write_tables``."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, Final

from benchmarks.pages import replace_part, replace_row
from benchmarks.simulator.comparison import GOAL_AREA, GOAL_P95

PAGE: Final = "docs/platform/simulate.md"
README: Final = "README.md"
PART: Final = "make bench-simulator"
README_ROW: Final = "| the simulator beside a real control plane"
HEAD: Final = (
    "| HPA, order, trace | pod-seconds: cluster, simulated (range) | | starts | late | p50 | p95 | | apart |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
)

Record = Mapping[str, Any]


def write_tables(records: Mapping[str, Record], root: Path) -> None:
    """Into the files of a checkout. ValueError where a file has no place for them."""
    page, readme = root / PAGE, root / README
    page.write_text(replace_part(page.read_text(), PART, build_page(records)))
    readme.write_text(replace_row(readme.read_text(), README_ROW, build_readme_row(list(records.values()))))


def build_page(records: Mapping[str, Record]) -> str:
    """Markdown: a row for each run, and whether the goals are met."""
    rows = [_build_row(name, records[name]) for name in sorted(records, key=_place)]
    missed = [f"{name}: {goal}" for name, record in records.items() for goal in record["simulated"]["missed_goals"]]
    runs = list(records.values())
    said = "Missed: " + "; ".join(missed) + "." if missed else "Met by each."
    area, p95 = (100 * mean(_off(run, key) for run in runs) for key in ("area_ratio", "p95_ratio"))
    loads = ", ".join(f"{run['load_average']:.1f}" for run in runs)
    closing = [
        f"Goals: pod-seconds within {100 * GOAL_AREA:.0f} %, p95 within {100 * GOAL_P95:.0f} %. {said} On average "
        f"pod-seconds are {area:.1f} % apart and p95 {p95:.1f} %.",
        f"Measured {', '.join(_list_moments(runs))}; load average of the machine {loads}.",
    ]
    return "\n".join([*HEAD, *rows, "", *closing, ""])


def build_readme_row(records: Sequence[Record]) -> str:
    """The farthest that the two are apart."""
    area, p95 = (max((_off(record, key) for record in records), default=0.0) for key in ("area_ratio", "p95_ratio"))
    seeds = len({record["trace"]["seed"] for record in records})
    traces = "one trace" if seeds == 1 else f"{seeds} traces"
    return (
        f"{README_ROW}, {len(records)} runs of ten minutes on {traces} | pods' area within {area:.1%}, "
        f"p95 within {p95:.1%} |"
    ).replace("%", " %")


def _build_row(name: str, record: Record) -> str:
    seen, simulated = record["cluster"], record["simulated"]
    middle, low, high = (simulated[part] for part in ("median", "lowest", "highest"))
    return (
        f"| {name.removeprefix('autoscaler ')} "
        f"| {seen['pod_seconds']:.0f}, {middle['pod_seconds']:.0f} "
        f"({low['pod_seconds']:.0f} to {high['pod_seconds']:.0f}) "
        f"| {100 * simulated['area_ratio'] - 100:+.1f} % "
        f"| {seen['starts']:.0f}, {middle['starts']:.0f} "
        f"| {seen['late_percent']:.1f} %, {middle['late_percent']:.1f} % "
        f"| {seen['p50_seconds']:.1f}, {middle['p50_seconds']:.1f} s "
        f"| {seen['p95_seconds']:.1f}, {middle['p95_seconds']:.1f} s "
        f"({low['p95_seconds']:.1f} to {high['p95_seconds']:.1f}) "
        f"| {100 * simulated['p95_ratio'] - 100:+.1f} % "
        f"| {100 * simulated['distance_of_courses']:.1f} % |"
    )


def _place(name: str) -> tuple[int, str]:
    """``autoscaler every 15 s, …``: by the number first."""
    return int(name.split()[2]), name


def _off(record: Record, key: str) -> float:
    return abs(float(record["simulated"][key]) - 1)


def _list_moments(records: Sequence[Record]) -> Iterator[str]:
    moments = sorted({(record["measured"]["date"], record["measured"]["commit"]) for record in records})
    yield from (f"{date} at `{commit}`" for date, commit in moments)
