"""What a fault cost, as customers saw it: how long until all was as before, and which answers they got. Pure."""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from chaos.observations import Observations
from chaos.plan import FaultKind

WINDOW_SECONDS: Final = 5.0
STEP_SECONDS: Final = 0.5
BEFORE_SECONDS: Final = 60.0
BACK_SHARE: Final = 0.5  # of the throughput before


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
    back_after_seconds: float  # until finished jobs came at half the rate of before, for good; 0: they never fell below
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


def find_costs(faults: Sequence[Injected], observations: Observations, seconds: float) -> list[Cost]:
    """Of each fault. ``seconds``: when the last request arrived; nothing is expected after that."""
    finished = sorted(observations.finished_at)
    ends = [later.began for later in faults[1:]] + [seconds]
    return [
        _find_cost(fault, finished, observations, max(fault.began, min(end, seconds)))
        for fault, end in zip(faults, ends, strict=True)
    ]


def _find_cost(fault: Injected, finished: Sequence[float], observations: Observations, end: float) -> Cost:
    inside = finished[bisect_left(finished, fault.began) : bisect_right(finished, end)]
    gaps = [later - earlier for earlier, later in pairwise([fault.began, *inside, end])]
    answers: Counter[str] = Counter()
    for (second, kind), count in observations.refused_at.items():
        if int(fault.began) <= second < end:
            answers[kind] += count
    return Cost(
        fault,
        longest_gap_seconds=max(gaps),
        next_success_seconds=gaps[0],
        back_after_seconds=_find_return(fault.began, end, finished),
        answers=dict(sorted(answers.items())),
    )


def _find_return(began: float, end: float, finished: Sequence[float]) -> float:
    before = min(BEFORE_SECONDS, began)
    rate = _count(finished, began - before, began) / before if before else 0.0
    enough = BACK_SHARE * rate * WINDOW_SECONDS
    back_after = 0.0
    moment = began + WINDOW_SECONDS
    while moment <= end:
        if _count(finished, moment - WINDOW_SECONDS, moment) < enough:
            back_after = moment - began
        moment += STEP_SECONDS
    return back_after


def _count(finished: Sequence[float], begin: float, end: float) -> int:
    return bisect_left(finished, end) - bisect_left(finished, begin)
