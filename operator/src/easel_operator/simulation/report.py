"""The outcomes of a scenario as JSON-ready data and as a table."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from easel_operator.simulation.outcome import Outcome
from easel_operator.simulation.policies.registry import ORACLE

TABLE_COLUMNS: Final = (
    ("late %", "late_percent"),
    ("worst h %", "worst_hour_late_percent"),
    ("p50 s", "p50_seconds"),
    ("p95 s", "p95_seconds"),
    ("p99 s", "p99_seconds"),
    ("max s", "max_seconds"),
    ("GPU h", "gpu_hours"),
    ("x oracle", "gpu_hours_over_oracle"),
    ("start h", "startup_gpu_hours"),
    ("starts", "starts"),
    ("killed", "busy_pods_killed"),
    ("back", "jobs_handed_back"),
    ("zero s", "seconds_at_zero"),
)


def build_records(outcomes: Sequence[Outcome], *, gpu_hour_price: float | None = None) -> dict[str, dict[str, Any]]:
    """Figures by policy. ``gpu_hours_over_oracle`` is None where the oracle wasn't asked for."""
    oracle = next((outcome.gpu_hours for outcome in outcomes if outcome.policy == ORACLE), None)
    records = {}
    for outcome in outcomes:
        record = outcome.to_record()
        record["gpu_hours_over_oracle"] = round(outcome.gpu_hours / oracle, 4) if oracle else None
        if gpu_hour_price is not None:
            record["cost"] = round(outcome.gpu_hours * gpu_hour_price, 2)
        records[outcome.policy] = record
    return records


def build_table(records: Mapping[str, Mapping[str, Any]]) -> str:
    """One line a policy, figures in columns; a dash where there is none."""
    columns = [column for column in TABLE_COLUMNS if any(column[1] in record for record in records.values())]
    if any("cost" in record for record in records.values()):
        columns = [*columns, ("cost", "cost")]
    rows = [["policy", *(title for title, _ in columns)]]
    rows += [[name, *(_format(record.get(key)) for _, key in columns)] for name, record in records.items()]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )


def _format(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"
