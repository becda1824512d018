"""The demo as a picture: demand, pods ordered and ready, latency against its target, and the planner's reasons."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from demo.observe import Sighting

# Of Okabe and Ito's palette (https://jfly.uni-koeln.de/color/), which people with any colour vision tell apart; the two
# numbers of pods differ in their strokes too, as they often lie on each other.
DEMAND, ORDERED, READY, P95 = "#0072B2", "#D55E00", "#009E73", "#882255"
INK: Final = "#444444"
WIDTH_INCHES: Final = 11.0
WORDS_WIDTH: Final = 128  # characters
MAX_TURNS: Final = 8
MAX_LINES: Final = 2  # of a turn's words


@dataclass(frozen=True)
class Turn:
    """A moment at which another number of pods was ordered, and the planner's words for it."""

    at_seconds: float
    pods: int
    words: str


def find_turns(sightings: Sequence[Sighting]) -> list[Turn]:
    """The changes of the number ordered; of more than ``MAX_TURNS`` the first ones."""
    pairs = pairwise(sightings)
    turns = [Turn(now.at_seconds, now.desired, now.reason) for last, now in pairs if now.desired != last.desired]
    return turns[:MAX_TURNS]


def plot(
    sightings: Sequence[Sighting], events: Mapping[str, float], path: Path, *, target_latency_seconds: float
) -> None:
    """Writes a PNG. ``events``: label → seconds, of what the demo did to the service."""
    turns = find_turns(sightings)
    words = [_describe(number, turn) for number, turn in enumerate(turns, 1)]
    words_inches = 0.3 + 0.17 * sum(text.count("\n") + 1 for text in words)
    figure = plt.figure(figsize=(WIDTH_INCHES, 6.6 + words_inches), layout="constrained")
    rows = figure.add_gridspec(4, 1, height_ratios=[2.0, 2.2, 1.8, words_inches])
    demand = figure.add_subplot(rows[0])
    pods = figure.add_subplot(rows[1], sharex=demand)
    latency = figure.add_subplot(rows[2], sharex=demand)
    seconds = [look.at_seconds for look in sightings]
    _plot_demand(demand, seconds, sightings)
    _plot_pods(pods, seconds, sightings, turns)
    _plot_latency(latency, seconds, sightings, target_latency_seconds)
    for axes in (demand, pods):
        axes.tick_params(labelbottom=False)
    _mark_events(demand, (demand, pods, latency), events)
    _write_words(figure.add_subplot(rows[3]), words)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _plot_demand(axes: Axes, seconds: Sequence[float], sightings: Sequence[Sighting]) -> None:
    depths = [float("nan") if look.queue_depth is None else look.queue_depth for look in sightings]
    axes.fill_between(seconds, depths, step="post", color=DEMAND, alpha=0.15, linewidth=0)
    axes.step(seconds, depths, where="post", color=DEMAND, linewidth=2, label="demand: requests waiting and running")
    _finish(axes, "requests", legend_at=1.13)  # above what the events are called


def _plot_pods(axes: Axes, seconds: Sequence[float], sightings: Sequence[Sighting], turns: Sequence[Turn]) -> None:
    ready, ordered = [look.ready for look in sightings], [look.desired for look in sightings]
    axes.step(seconds, ready, where="post", color=READY, linewidth=4, alpha=0.8, label="pods ready")
    axes.step(seconds, ordered, where="post", color=ORDERED, linewidth=1.8, linestyle=(0, (4, 2)), label="pods ordered")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    top = max([*ready, *ordered, 1])
    for number, turn in enumerate(turns, 1):
        axes.annotate(
            str(number), (turn.at_seconds, top + 0.55), ha="center", va="center", fontsize=9, color="white",
            bbox={"boxstyle": "circle,pad=0.25", "facecolor": ORDERED, "linewidth": 0},
        )  # fmt: skip
        axes.plot([turn.at_seconds] * 2, [turn.pods, top + 0.4], color=ORDERED, linewidth=0.7)
    _finish(axes, "worker pods", top + 1)


def _plot_latency(axes: Axes, seconds: Sequence[float], sightings: Sequence[Sighting], target_seconds: float) -> None:
    p95 = [float("nan") if look.latency_p95_seconds is None else look.latency_p95_seconds for look in sightings]
    axes.step(
        seconds, p95, where="post", color=P95, linewidth=2, label="p95 of the last minutes, as autoscalers read it"
    )
    axes.axhline(
        target_seconds, color="black", linewidth=1.2, linestyle=(0, (1, 1.5)), label=f"target: {target_seconds:g} s"
    )
    axes.set_xlabel("seconds")
    _finish(axes, "latency in seconds")


def _finish(axes: Axes, label: str, top: float | None = None, *, legend_at: float = 1.0) -> None:
    axes.set_ylabel(label, color=INK)
    axes.set_ylim(0, top if top is not None else axes.get_ylim()[1] * 1.05)
    axes.grid(axis="y", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.margins(x=0.01)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, legend_at), ncols=3, frameon=False, fontsize=9, borderaxespad=0.2)


def _mark_events(labelled: Axes, all_axes: Sequence[Axes], events: Mapping[str, float]) -> None:
    for label, at_seconds in events.items():
        for axes in all_axes:
            axes.axvline(at_seconds, color=INK, linewidth=0.8, linestyle=":")
        labelled.annotate(
            label, (at_seconds, 1), (0, 3), xycoords=("data", "axes fraction"), textcoords="offset points",
            ha="center", va="bottom", fontsize=9, color=INK,
        )  # fmt: skip


def _describe(number: int, turn: Turn) -> str:
    said = textwrap.wrap(turn.words or "no words yet", WORDS_WIDTH, max_lines=MAX_LINES, placeholder=" …")
    first = f"{number:>2}  {turn.at_seconds:>4.0f} s  "
    return "\n".join((first if place == 0 else " " * len(first)) + line for place, line in enumerate(said))


def _write_words(axes: Axes, words: Sequence[str]) -> None:
    axes.set_axis_off()
    axes.text(0, 1, "Why, in the planner's words", transform=axes.transAxes, va="top", fontsize=9.5, weight="bold")
    axes.annotate(
        "\n".join(words), (0, 1), (0, -18), xycoords="axes fraction", textcoords="offset points", va="top", ha="left",
        fontsize=8, family="monospace", color=INK,
    )  # fmt: skip
