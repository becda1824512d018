"""Colours of Grafana's by their names, on a light and a dark background, and what a panel's series look like."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from dashboards.picture.prometheus import Series


@dataclass(frozen=True)
class Theme:
    """Colours of what is around the series."""

    page: str
    panel: str
    border: str
    text: str
    muted: str
    grid: str


THEMES: Final = {
    "light": Theme("#f4f5f5", "#ffffff", "#dcdde0", "#24292e", "#6b7078", "#e6e7e9"),
    "dark": Theme("#111217", "#181b1f", "#2c3036", "#ccccdc", "#8e8e99", "#2a2e34"),
}
# The main shade of each of Grafana's hues.
COLORS: Final = {
    "green": "#56a64b",
    "yellow": "#e0b400",
    "blue": "#3274d9",
    "orange": "#ff780a",
    "red": "#e02f44",
    "purple": "#a352cc",
}
PALETTE: Final = (
    *("#56a64b", "#e0b400", "#3274d9", "#ff780a", "#e02f44", "#a352cc"),
    *("#37872d", "#0a50a1", "#8f3bb8", "#c4162a", "#c15c17", "#5f9ea0"),
)
BY_QUERY, BY_NAME = "byFrameRefID", "byName"


@dataclass(frozen=True)
class Look:
    """How one series is plotted."""

    color: str
    dashed: bool
    step: bool
    stacked: bool
    filled: float  # opacity, 0 to 1
    bars: bool
    width: float


def color_of(name: str, theme: Theme) -> str:
    """A colour as matplotlib takes it. Raises ValueError for one that isn't known here."""
    if name == "text":
        return theme.muted
    if name not in COLORS:
        raise ValueError(f"colour {name!r}: known are text, {', '.join(sorted(COLORS))}")
    return COLORS[name]


def find_look(panel: Mapping[str, Any], series: Series, ref_id: str, place: int, theme: Theme) -> Look:
    """From the panel's defaults and what overrides them for this series, the ``place``-th of the panel."""
    config = panel["fieldConfig"]
    properties = {f"custom.{name}": value for name, value in config["defaults"].get("custom", {}).items()}
    for override in config["overrides"]:
        wanted = {BY_QUERY: ref_id, BY_NAME: series.name}.get(override["matcher"]["id"])
        if wanted == override["matcher"]["options"]:
            properties |= {each["id"]: each["value"] for each in override["properties"]}
    fixed = properties.get("color", {}).get("fixedColor")
    return Look(
        color=color_of(fixed, theme) if fixed else PALETTE[place % len(PALETTE)],
        dashed=properties.get("custom.lineStyle", {}).get("fill") == "dash",
        step=properties.get("custom.lineInterpolation") == "stepAfter",
        stacked=properties.get("custom.stacking", {}).get("mode") == "normal",
        filled=properties.get("custom.fillOpacity", 0) / 100,
        bars=properties.get("custom.drawStyle") == "bars",
        width=properties.get("custom.lineWidth", 1),
    )


def color_at(value: float, thresholds: Mapping[str, Any], theme: Theme) -> str:
    """The colour of the last threshold that the value has reached."""
    reached = [step for step in thresholds["steps"] if step.get("value") is None or value >= step["value"]]
    return color_of(reached[-1]["color"], theme) if reached else theme.text
