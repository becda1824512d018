"""The time axis: samples on the window's own grid, and ticks at round times."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter
from numpy.typing import NDArray

from dashboards.picture.prometheus import Series, Window

ROUND_SECONDS: Final = (5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)
PIXELS_A_TICK: Final = 62

Samples = NDArray[np.float64]  # one for each moment of the window; NaN: none


def list_times(window: Window) -> Samples:
    """The moments that a range query answers for."""
    count = math.floor((window.end - window.begin) / window.step_seconds) + 1
    return np.array([window.begin + window.step_seconds * number for number in range(count)])


def to_samples(series: Series, window: Window) -> Samples:
    """A series on the window's moments."""
    samples = np.full(len(list_times(window)), np.nan)
    places = np.rint((np.array(series.times) - window.begin) / window.step_seconds).astype(int)
    inside = (places >= 0) & (places < len(samples))
    samples[places[inside]] = np.array(series.values)[inside]
    return samples


def set_time_axis(axes: Axes, window: Window, width: float) -> None:
    """Limits and labels, in UTC; seconds are said where ticks are less than a minute apart."""
    span = window.end - window.begin
    apart = next((each for each in ROUND_SECONDS if span / each * PIXELS_A_TICK <= width), ROUND_SECONDS[-1])
    form = "%H:%M:%S" if apart < 60 else "%H:%M" if span <= 86400 else "%m-%d %H:%M"
    axes.set_xlim(window.begin, window.end)
    axes.xaxis.set_major_locator(FixedLocator(_round_times(window, apart)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: datetime.fromtimestamp(at, UTC).strftime(form)))


def _round_times(window: Window, apart: int) -> Sequence[float]:
    first = math.ceil(window.begin / apart) * apart
    return [first + apart * number for number in range(int((window.end - first) // apart) + 1)]
