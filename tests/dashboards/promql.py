"""What stands in a dashboard's queries, for tests."""

import json
import re
from collections.abc import Iterator
from typing import Any

from dashboards.write import DASHBOARDS, FOLDER

NAMES = tuple(DASHBOARDS)
RATE_INTERVAL, OTHER_RANGE = "[$__rate_interval]", re.compile(r"\[(?!\$__rate_interval\])[^\]]*\]")
SELECTOR = re.compile(r"\b(easel_\w+)(\{[^}]*\})?")


def read_dashboard(name: str) -> dict[str, Any]:
    dashboard: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return dashboard


def panels_of(name: str) -> list[dict[str, Any]]:
    """But for rows."""
    return [panel for panel in read_dashboard(name)["panels"] if panel["type"] != "row"]


def queries_of(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each panel's title with each of its targets."""
    for panel in panels_of(name):
        for target in panel["targets"]:
            yield panel["title"], target


def metrics_in(expression: str) -> list[tuple[str, str]]:
    """Names of metrics with the matchers that stand behind them."""
    return [(name, matchers) for name, matchers in SELECTOR.findall(expression)]
