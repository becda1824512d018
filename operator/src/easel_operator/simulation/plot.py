"""An image of simulations: demand and backlog, pods, latency against the target; one row a policy.

The only module of the simulation that writes a file. Needs matplotlib.
"""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from easel_operator.simulation.outcome import Outcome
from easel_operator.simulation.report import build_records, build_table
from easel_operator.simulation.timeline import Timeline
from easel_operator.simulation.trace import Trace

ROW_INCHES: Final = 3.2
WIDTH_INCHES: Final = 16.0
DOTS_PER_INCH: Final = 110
BINS: Final = 300
HOUR_SECONDS: Final = 3600.0


def plot(trace: Trace, target_seconds: float, outcomes: Sequence[Outcome], path: Path) -> None:
    """Write a PNG, or an HTML page that holds it beside the figures."""
    image = render(trace, target_seconds, outcomes)
    if path.suffix == ".html":
        path.write_text(_build_page(image, outcomes), encoding="utf-8")
    else:
        path.write_bytes(image)


def render(trace: Trace, target_seconds: float, outcomes: Sequence[Outcome]) -> bytes:
    """The image as PNG. Policies without a timeline show their latencies only."""
    figure = Figure(figsize=(WIDTH_INCHES, ROW_INCHES * len(outcomes)), layout="constrained")
    axes = figure.subplots(len(outcomes), 3, squeeze=False, sharex=True)
    for row, outcome in zip(axes, outcomes, strict=True):
        _plot_load(row[0], trace, outcome)
        _plot_pods(row[1], outcome.timeline)
        _plot_latency(row[2], trace, outcome, target_seconds)
    for axis, title in zip(axes[0], ("demand and backlog", "pods", "latency"), strict=True):
        axis.set_title(title)
    for axis in axes[-1]:
        axis.set_xlabel("hours")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    return buffer.getvalue()


def _plot_load(axis: Axes, trace: Trace, outcome: Outcome) -> None:
    width = max(trace.duration_seconds, 1.0) / BINS
    work, edges = np.histogram(trace.arrival_seconds, bins=BINS, range=(0, width * BINS), weights=trace.work_seconds)
    axis.fill_between(edges[:-1] / HOUR_SECONDS, work / width, step="post", alpha=0.4, label="demand, GPUs")
    axis.set_ylabel(outcome.policy)
    if outcome.timeline is not None:
        hours = np.asarray(outcome.timeline.at_seconds) / HOUR_SECONDS
        backlog = axis.twinx()
        backlog.plot(hours, outcome.timeline.backlog_seconds, color="tab:red", linewidth=0.6)
        backlog.set_ylabel("backlog, GPU-seconds", color="tab:red")
    axis.legend(loc="upper left", fontsize="small")


def _plot_pods(axis: Axes, timeline: Timeline | None) -> None:
    if timeline is None:
        return
    hours = np.asarray(timeline.at_seconds) / HOUR_SECONDS
    axis.stackplot(hours, timeline.ready, timeline.starting, labels=("ready", "starting"), step="post")
    axis.plot(hours, timeline.running, color="black", linewidth=0.5, label="busy")
    axis.legend(loc="upper left", fontsize="small")


def _plot_latency(axis: Axes, trace: Trace, outcome: Outcome, target_seconds: float) -> None:
    """The p50 and p95 of each bin of arrivals."""
    latencies = np.asarray(outcome.latencies_seconds)
    finite = np.isfinite(latencies)
    width = max(trace.duration_seconds, 1.0) / BINS
    bins = np.minimum((np.asarray(trace.arrival_seconds)[finite] / width).astype(int), BINS - 1)
    order = np.argsort(bins, kind="stable")
    found, starts = np.unique(bins[order], return_index=True)
    groups = np.split(latencies[finite][order], starts[1:])
    hours = found * width / HOUR_SECONDS
    for percent, colour in ((50, "tab:blue"), (95, "tab:orange")):
        values = [np.percentile(group, percent) for group in groups]
        axis.plot(hours, values, ".", markersize=3, color=colour, label=f"p{percent}, s")
    axis.axhline(target_seconds, color="tab:red", linewidth=0.8, label="target")
    axis.set_ylim(bottom=0)
    axis.legend(loc="upper left", fontsize="small", title=f"{outcome.late_percent:.1f} % late")


def _build_page(image: bytes, outcomes: Sequence[Outcome]) -> str:
    table = html.escape(build_table(build_records(outcomes)))
    encoded = base64.b64encode(image).decode()
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>easel simulate</title>"
        f"<body style='font-family: sans-serif'><pre>{table}</pre>"
        f"<img alt='demand, backlog, pods and latency by policy' style='max-width: 100%' "
        f"src='data:image/png;base64,{encoded}'></body></html>\n"
    )
