"""A table: rows joined by their labels (Grafana's transformation ``merge``), columns as ``organize`` names them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dashboards.picture.grid import Box, Page
from dashboards.picture.prometheus import Series
from dashboards.picture.style import color_at
from dashboards.picture.units import format_value

ROW: Final = 22
CHARACTER: Final = 6.6  # pixels
BETWEEN: Final = 3  # columns, in characters


@dataclass(frozen=True)
class TableColumn:
    """What stands in one column, by the panel's JSON."""

    title: str
    label: str  # of the series; empty for a value
    ref_id: str  # of the query whose value it is
    properties: Mapping[str, Any]


def list_columns(panel: Mapping[str, Any]) -> list[TableColumn]:
    """Columns that are shown, in order."""
    organize = next(each["options"] for each in panel["transformations"] if each["id"] == "organize")
    columns = []
    for name in sorted(organize["indexByName"], key=organize["indexByName"].__getitem__):
        if organize["excludeByName"].get(name):
            continue
        title = organize["renameByName"].get(name, name)
        properties = {
            each["id"]: each["value"]
            for override in panel["fieldConfig"]["overrides"]
            if override["matcher"]["options"] == title
            for each in override["properties"]
        }
        is_value = name == "Value" or name.startswith("Value #")
        ref_id = name.partition("#")[2] or panel["targets"][0]["refId"]
        columns.append(TableColumn(title, "" if is_value else name, ref_id if is_value else "", properties))
    return columns


def join_rows(answers: Mapping[str, Sequence[Series]]) -> list[tuple[Mapping[str, str], Mapping[str, float]]]:
    """Labels, and the value of each query by its reference, of each set of labels that some query gave."""
    rows: dict[tuple[tuple[str, str], ...], dict[str, float]] = {}
    for ref_id, found in answers.items():
        for series in found:
            rows.setdefault(tuple(sorted(series.labels.items())), {})[ref_id] = series.last
    return [(dict(labels), values) for labels, values in sorted(rows.items())]


def plot_table(page: Page, box: Box, panel: Mapping[str, Any], answers: Mapping[str, Sequence[Series]]) -> None:
    """As many rows as there is room for; how many more there are is said."""
    columns, rows = list_columns(panel), join_rows(answers)
    if not rows:
        empty = panel["fieldConfig"]["defaults"]["noValue"]
        page.write(box.x + box.width / 2, box.y + box.height / 2, empty, 11, page.theme.muted, ha="center")
        return
    room = int(box.height // ROW) - 1
    x = box.x
    cells = [[_describe_cell(column, *row, page) for row in rows[:room]] for column in columns]
    needed = [
        max(len(column.title), *(len(text) for text, _ in filled)) + BETWEEN
        for column, filled in zip(columns, cells, strict=True)
    ]
    for column, filled, characters in zip(columns, cells, needed, strict=True):
        page.write(x, box.y + ROW / 2, column.title, 8.5, page.theme.muted, weight="bold")
        width = box.width * characters / sum(needed)
        fits = int(width / CHARACTER)
        for number, (text, color) in enumerate(filled, start=1):
            short = text if len(text) <= fits else f"{text[: fits - 1]}…"
            page.write(x, box.y + ROW * (number + 0.5), short, 8.5, color)
        x += width
    if len(rows) > room:
        page.write(box.x + box.width, box.y - 14, f"{len(rows) - room} more rows", 8, page.theme.muted, ha="right")


def _describe_cell(
    column: TableColumn, labels: Mapping[str, str], values: Mapping[str, float], page: Page
) -> tuple[str, str]:
    if column.label:
        return labels.get(column.label, ""), page.theme.text
    if column.ref_id not in values:
        return "", page.theme.text
    value, properties = values[column.ref_id], column.properties
    text = format_value(value, properties["unit"], properties.get("decimals"))
    thresholds = properties.get("thresholds")
    return text, color_at(value, thresholds, page.theme) if thresholds else page.theme.text
