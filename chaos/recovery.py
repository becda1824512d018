"""What a fault cost, as customers saw it: how long until all was as before, and which answers they got. Pure."""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any, Final

from chaos.observations import Observations
from chaos.plan import QUIET_SECONDS, FaultKind

STEP_SECONDS: Final = 0.5
# As before is: twice as many requests unfinished as in the middle of the run, and those of this time.
ALLOWED_SECONDS: Final = 2.0


@dataclass(frozen=True)
class Injected:
    """A fault that was done, in seconds since the run began."""

    kind: FaultKind
    target: str  # the pod, node or process that it hit
    began: float
    ended: float  # all that was done is undone
    moments: dict[str, float] = field(default_factory=dict)  # what else was seen, in seconds after it began


@dataclass(frozen=True)
class Cost:
    """Of one fault, until the next one."""

    fault: Injected
    longest_gap_seconds: float  # between two finished jobs
    next_success_seconds: float  # from the fault to the first job that was seen to have ended
    back_after_seconds: float  # until no more were unfinished than before, for good; 0: there never were more
    answers: dict[str, int]  # those without success, by kind

    def to_record(self) -> dict[str, Any]:
        """For the file of results."""
        return {
            "kind": str(self.fault.kind),
            "target": self.fault.target,
            "at_seconds": round(self.fault.began, 1),
            "undone_after_seconds": round(self.fault.ended - self.fault.began, 1),
            **{name: round(moment, 1) for name, moment in self.fault.moments.items()},
            "next_success_seconds": round(self.next_success_seconds, 2),
            "longest_gap_seconds": round(self.longest_gap_seconds, 2),
            "back_after_seconds": round(self.back_after_seconds, 1),
            "answers_without_success": self.answers,
        }


def find_costs(faults: Sequence[Injected], observations: Observations, arrivals: Sequence[float]) -> list[Cost]:
    """Of each fault. ``arrivals``: the moment of each request, in order; nothing is expected after the last one."""
    load = _Load(arrivals, sorted(observations.finished_at))
    ends = [later.began for later in faults[1:]] + [load.end]
    return [_find_cost(fault, load, observations, min(end, load.end)) for fault, end in zip(faults, ends, strict=True)]


class _Load:
    """Requests that came and jobs that were finished."""

    def __init__(self, arrivals: Sequence[float], finished: Sequence[float]) -> None:
        self._arrivals, self.finished = arrivals, finished
        self.end = arrivals[-1] if arrivals else 0.0
        usual = median(self.count_open(moment) for moment in _steps(0.0, self.end))
        self.allowed = 2 * usual + ALLOWED_SECONDS * len(arrivals) / max(self.end, 1.0)

    def count_open(self, moment: float) -> int:
        """Requests that have come and aren't finished."""
        return bisect_right(self._arrivals, moment) - bisect_right(self.finished, moment)


def _steps(begin: float, end: float) -> list[float]:
    return [begin + STEP_SECONDS * step for step in range(int((end - begin) / STEP_SECONDS) + 1)]


def _find_cost(fault: Injected, load: _Load, observations: Observations, end: float) -> Cost:
    began = fault.began + (QUIET_SECONDS if fault.kind is FaultKind.BURST else 0.0)
    end = max(began, end)
    inside = load.finished[bisect_left(load.finished, began) : bisect_right(load.finished, end)]
    gaps = [later - earlier for earlier, later in pairwise([began, *inside, end])]
    answers: Counter[str] = Counter()
    for (second, kind), count in observations.refused_at.items():
        if int(fault.began) <= second < int(end):
            answers[kind] += count
    behind = [moment for moment in _steps(began, end) if load.count_open(moment) > load.allowed]
    return Cost(
        fault,
        longest_gap_seconds=max(gaps),
        next_success_seconds=gaps[0],
        back_after_seconds=behind[-1] + STEP_SECONDS - began if behind else 0.0,
        answers=dict(sorted(answers.items())),
    )
