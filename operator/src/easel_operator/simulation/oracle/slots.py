"""A trace cut into equal slots, and into episodes between which every pod is scaled down whatever the plan."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from easel_operator.simulation.trace import Trace

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Slots:
    """Work and requests by the slot in which they arrive."""

    slot_seconds: float
    work_seconds: Floats  # float64[slots]
    requests: Floats  # float64[slots]


@dataclass(frozen=True, slots=True)
class Episode:
    """Slots [begin, end) outside of which, up to the next episode, nothing waits or runs."""

    begin: int
    end: int


def cut_into_slots(
    trace: Trace,
    slot_seconds: float,
    tail_seconds: float,
    whole_seconds: float = math.inf,
    *,
    is_long_planned: bool = True,
) -> Slots:
    """``tail_seconds`` of empty slots follow the trace, for what its last requests still need.

    Of a request that takes longer than ``whole_seconds`` the rest comes bit by bit, as one pod can do it: however many
    pods there are, they can't share it. If it is not to take longer it is late whatever is done, and isn't counted.
    Without ``is_long_planned`` it counts as one slot of a pod, which has to be there: where late requests yield, it may
    be done when pods would idle.
    """
    arrivals = np.asarray(trace.arrival_seconds, dtype=np.float64)
    works = np.asarray(trace.work_seconds, dtype=np.float64)
    long = np.flatnonzero(works > whole_seconds)
    last = float((arrivals[long] + works[long]).max(initial=trace.duration_seconds))
    count = math.ceil((last + tail_seconds) / slot_seconds) + 1
    index = (arrivals // slot_seconds).astype(np.int64)
    planned = np.where(works <= whole_seconds, works, whole_seconds if is_long_planned else slot_seconds)
    work = np.bincount(index, weights=planned, minlength=count).astype(np.float64)
    for at in long if is_long_planned else ():
        begin, rest = int((arrivals[at] + whole_seconds) // slot_seconds), works[at] - whole_seconds
        full = int(rest // slot_seconds)
        work[begin : begin + full] += slot_seconds
        work[begin + full] += rest - full * slot_seconds
    requests = np.bincount(index[works <= whole_seconds], minlength=count)
    return Slots(slot_seconds, work, requests.astype(np.float64))


def find_episodes(slots: Slots, longest_wait_seconds: float, cold_start_seconds: float) -> list[Episode]:
    """Stretches of slots between gaps so long that keeping a pod through them costs more than starting it anew.

    After ``longest_wait_seconds`` without arrivals all work is done; a pod that then idles for longer than
    ``cold_start_seconds`` costs more than its next start. So each episode can be planned alone.
    """
    busy = np.flatnonzero(slots.work_seconds)
    if not busy.size:
        return []
    tail = math.ceil(longest_wait_seconds / slots.slot_seconds) + 1
    gap = tail + math.ceil(cold_start_seconds / slots.slot_seconds)
    breaks = np.flatnonzero(np.diff(busy) > gap)
    begins = [int(busy[0]), *(int(busy[at + 1]) for at in breaks)]
    ends = [*(int(busy[at]) for at in breaks), int(busy[-1])]
    last = len(slots.requests)
    return [Episode(begin, min(end + tail + 1, last)) for begin, end in zip(begins, ends, strict=True)]


def sum_window(values: Floats, width: int) -> Floats:
    """The sum of each slot and the ``width`` - 1 before it; zeros where ``width`` is 0."""
    if width <= 0:
        return np.zeros_like(values)
    total = np.concatenate(([0.0], np.cumsum(values)))
    at = np.arange(1, len(values) + 1)
    window: Floats = np.maximum(total[at] - total[np.maximum(0, at - width)], 0.0)
    return window
