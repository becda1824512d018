"""Each kind of panel on its box of the page: what its queries answered, as its JSON says to show it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

from dashboards.picture.grid import TITLE_HEIGHT, Box, Page
from dashboards.picture.prometheus import Prometheus, Series, Window
from dashboards.picture.style import Look, color_at, color_of, find_look
from dashboards.picture.table import plot_table
from dashboards.picture.timing import ROUND_SECONDS, Samples, list_times, set_time_axis, to_samples
from dashboards.picture.units import format_value

CHARACTER: Final = 6.0  # pixels of a legend's character, on average
LEGEND_LINE: Final = 16
MAX_LEGEND_LINES: Final = 2
Panel = Mapping[str, Any]
Step = Literal["post"] | None


@dataclass(frozen=True)
class Answer:
    """What one of a panel's queries gave."""

    ref_id: str
    series: Sequence[Series]


def plot_panel(page: Page, box: Box, panel: Panel, prometheus: Prometheus, window: Window) -> None:
    """Raises ValueError for a kind of panel that isn't known here, PrometheusError for a query that fails."""
    if panel["type"] not in KINDS:
        raise ValueError(f"{panel['title']}: no panel of type {panel['type']}; known are {', '.join(KINDS)}")
    answers = [Answer(target["refId"], _ask(prometheus, target, window)) for target in panel["targets"]]
    page.frame(box)
    page.write(box.x + 10, box.y + TITLE_HEIGHT / 2 + 2, panel["title"], 9.5, page.theme.text, weight="bold")
    KINDS[panel["type"]](page, box.inset(10, TITLE_HEIGHT, 10, 8), panel, answers, window)


def _ask(prometheus: Prometheus, target: Mapping[str, Any], window: Window) -> list[Series]:
    ask = prometheus.query if target["instant"] else prometheus.query_range
    return ask(target["expr"], target["legendFormat"], window)


def _plot_time_series(page: Page, box: Box, panel: Panel, answers: Sequence[Answer], window: Window) -> None:
    found = [(answer.ref_id, series) for answer in answers for series in answer.series]
    looks = [find_look(panel, series, ref_id, place, page.theme) for place, (ref_id, series) in enumerate(found)]
    names = [series.name for _, series in found]
    lines = _wrap_legend(names, box.width)
    unit = panel["fieldConfig"]["defaults"]["unit"]
    plot = box.inset(50, 4, 4, 24 + LEGEND_LINE * len(lines))
    axes = page.add_axes(plot)
    axes.grid(visible=True, color=page.theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    set_time_axis(axes, window, plot.width)
    if found:
        _plot_series(axes, [to_samples(series, window) for _, series in found], looks, window)
    else:
        page.write(
            plot.x + plot.width / 2, plot.y + plot.height / 2, "No data in this time", 9, page.theme.muted, ha="center"
        )
    _set_value_axis(axes, unit)
    _write_legend(page, box, lines, dict(zip(names, looks, strict=True)))


def _plot_series(axes: Axes, samples: Sequence[Samples], looks: Sequence[Look], window: Window) -> None:
    times = list_times(window)
    below = np.zeros(len(times))
    for values, look in zip(samples, looks, strict=True):
        if look.stacked:
            above = below + np.nan_to_num(values)
            _fill(axes, times, below, above, look, window)
            below = above
            continue
        style = "steps-post" if look.step else "default"
        dashes = (0, (5, 3)) if look.dashed else "solid"
        axes.plot(times, values, color=look.color, linewidth=1.5, drawstyle=style, linestyle=dashes)
        _mark_lonely(axes, times, values, look.color)
        if look.filled:
            shape: Step = "post" if look.step else None
            axes.fill_between(
                times, np.nan_to_num(values), step=shape, color=look.color, alpha=look.filled, linewidth=0
            )


def _fill(axes: Axes, times: Samples, below: Samples, above: Samples, look: Look, window: Window) -> None:
    if look.bars:
        width = max(window.step_seconds, (window.end - window.begin) / 120)
        axes.bar(times, above - below, width, below, color=look.color, alpha=look.filled + 0.2)
        return
    shape: Step = "post" if look.step else None
    axes.fill_between(times, below, above, step=shape, color=look.color, alpha=look.filled, linewidth=0)
    style = "steps-post" if look.step else "default"
    axes.plot(times, np.where(above > below, above, np.nan), color=look.color, linewidth=1, drawstyle=style)


def _mark_lonely(axes: Axes, times: Samples, values: Samples, color: str) -> None:
    """A sample without neighbours would be a line of no length."""
    there = np.isfinite(np.concatenate(([np.nan], values, [np.nan])))
    lonely = there[1:-1] & ~there[:-2] & ~there[2:]
    axes.plot(times[lonely], values[lonely], "o", color=color, markersize=2.5)


def _set_value_axis(axes: Axes, unit: str) -> None:
    is_flat = not axes.dataLim.y1 > 0  # nothing, or zeros alone
    axes.set_ylim(0, 1 if is_flat else axes.get_ylim()[1])
    axes.yaxis.set_major_locator(_find_locator(unit, axes.get_ylim()[1]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_value(value, unit)))


def _find_locator(unit: str, top: float) -> MaxNLocator | MultipleLocator:
    """Ticks at values that are round in their unit: minutes, powers of two."""
    if unit == "s" and top > 2 * ROUND_SECONDS[4]:
        return MultipleLocator(next((each for each in ROUND_SECONDS if top / each < 5), ROUND_SECONDS[-1]))
    if unit == "bytes" and top >= 1:
        return MultipleLocator(2.0 ** math.ceil(math.log2(top / 5)))
    return MaxNLocator(4, integer=unit == "none" and top >= 3)


def _wrap_legend(names: Sequence[str], width: float) -> list[list[str]]:
    """Lines of names that fit; what doesn't fit is counted."""
    lines: list[list[str]] = [[]]
    used = 0.0
    for name in dict.fromkeys(names):
        needed = 32 + CHARACTER * len(name)
        if lines[-1] and used + needed > width - 50:
            if len(lines) == MAX_LEGEND_LINES:
                left = len(set(names)) - sum(len(line) for line in lines)
                lines[-1].append(f"and {left} more")
                break
            lines.append([])
            used = 0.0
        lines[-1].append(name)
        used += needed
    return lines


def _write_legend(page: Page, box: Box, lines: Sequence[Sequence[str]], looks: Mapping[str, Look]) -> None:
    for number, line in enumerate(lines):
        x, y = box.x + 2, box.y + box.height - LEGEND_LINE * (len(lines) - number) + 9
        for name in line:
            if name in looks:
                page.swatch(x, y, looks[name].color, dashed=looks[name].dashed)
            page.write(x + 18, y, name, 7.8, page.theme.text)
            x += 32 + CHARACTER * len(name)


def _plot_stat(page: Page, box: Box, panel: Panel, answers: Sequence[Answer], window: Window) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    found = [series for answer in answers for series in answer.series]
    if not found:
        page.write(
            box.x + box.width / 2, box.y + box.height / 2, defaults["noValue"], 24, page.theme.muted, ha="center"
        )
        return
    series = found[0]
    text, color = _describe_value(series.last, defaults, page)
    if panel["options"]["textMode"] == "value_and_name":
        text = f"{text} {series.name}"
    if len(series.values) > 1 and not defaults.get("mappings"):
        axes = page.add_axes(box.inset(-9, box.height * 0.62, -9, -7))
        values = to_samples(series, window)
        axes.fill_between(list_times(window), values, color=color, alpha=0.18, linewidth=0)
        axes.plot(list_times(window), values, color=color, linewidth=1)
        axes.set_xlim(window.begin, window.end)
        axes.set_ylim(0, max(np.nanmax(values, initial=0) * 1.05, 1e-9))
        axes.set_axis_off()
    page.write(box.x + box.width / 2, box.y + box.height * 0.36, text, 22, color, ha="center", weight="bold")


def _describe_value(value: float, defaults: Mapping[str, Any], page: Page) -> tuple[str, str]:
    """What is shown, and its colour."""
    for mapping in defaults.get("mappings", []):
        result = mapping["options"].get(format_value(value, "none"))
        if result:
            return result["text"], color_of(result["color"], page.theme)
    if math.isnan(value):
        return defaults["noValue"], page.theme.muted
    return format_value(value, defaults["unit"], defaults.get("decimals")), color_at(
        value, defaults["thresholds"], page.theme
    )


def _plot_timeline(page: Page, box: Box, panel: Panel, answers: Sequence[Answer], window: Window) -> None:
    found = sorted((series for answer in answers for series in answer.series), key=lambda each: each.name)
    (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
    names_width = 12 + 6 * max((len(series.name) for series in found), default=4)
    plot = box.inset(names_width, 6, 4, 24 + LEGEND_LINE)
    axes = page.add_axes(plot)
    set_time_axis(axes, window, plot.width)
    for row, series in enumerate(reversed(found)):
        values = to_samples(series, window)
        for value, result in mapping["options"].items():
            spans = [
                (at - window.step_seconds / 2, window.step_seconds)
                for at, seen in zip(list_times(window), values, strict=True)
                if seen == float(value)
            ]
            axes.broken_barh(_join(spans), (row - 0.38, 0.76), color=color_of(result["color"], page.theme), alpha=0.8)
    axes.set_ylim(-0.6, max(len(found), 1) - 0.4)
    axes.set_yticks(range(len(found)), [series.name for series in reversed(found)])
    axes.tick_params(axis="y", colors=page.theme.text)
    x = box.x + 2
    for result in mapping["options"].values():
        y = box.y + box.height - LEGEND_LINE + 9
        page.swatch(x, y, color_of(result["color"], page.theme))
        page.write(x + 18, y, result["text"], 7.8, page.theme.text)
        x += 40 + CHARACTER * len(result["text"])


def _join(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Neighbours as one, so that no seam is seen."""
    joined: list[tuple[float, float]] = []
    for begin, width in spans:
        if joined and begin - sum(joined[-1]) < width / 2:
            joined[-1] = (joined[-1][0], begin + width - joined[-1][0])
        else:
            joined.append((begin, width))
    return joined


def _plot_table(page: Page, box: Box, panel: Panel, answers: Sequence[Answer], _: Window) -> None:
    plot_table(page, box, panel, {answer.ref_id: answer.series for answer in answers})


KINDS: Final[dict[str, Callable[[Page, Box, Panel, Sequence[Answer], Window], None]]] = {
    "timeseries": _plot_time_series,
    "stat": _plot_stat,
    "state-timeline": _plot_timeline,
    "table": _plot_table,
}
