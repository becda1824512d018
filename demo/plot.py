"""Demand and pods over time, as a plot."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from demo.observe import Sighting


def plot(sightings: Sequence[Sighting], events: Mapping[str, float], path: Path) -> None:
    """Writes a PNG: queue depth above, pods wanted, existing and ready below. ``events``: label → seconds."""
    seconds = [look.at_seconds for look in sightings]
    figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(10, 6), layout="constrained")
    above.fill_between(seconds, [look.queue_depth or 0 for look in sightings], color="#8888cc", step="post")
    above.set_ylabel("requests waiting and running")
    below.step(seconds, [look.desired for look in sightings], where="post", color="#cc6644", label="desired")
    below.step(seconds, [look.existing for look in sightings], where="post", color="#999999", label="existing")
    below.fill_between(seconds, [look.ready for look in sightings], color="#77bb77", step="post", label="ready")
    below.set_ylabel("worker pods")
    below.set_xlabel("seconds")
    below.yaxis.get_major_locator().set_params(integer=True)
    below.legend(loc="upper left")
    for label, at_seconds in events.items():
        for axes in (above, below):
            axes.axvline(at_seconds, color="black", linewidth=0.7, linestyle=":")
        above.annotate(label, (at_seconds, above.get_ylim()[1]), rotation=90, va="top", ha="right", fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
