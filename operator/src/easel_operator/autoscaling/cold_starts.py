"""How long pods take from their creation to Ready, measured from those that were started last."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from easel_contract.gateway_config import ASSUMED_COLD_START_SECONDS

from easel_operator.autoscaling.workers import StartUp, WorkerPod

REMEMBERED_STARTS: Final = 20
TIMEOUT_COLD_STARTS: Final = 3.0  # of the slow ones (p90): a pod that takes longer is not counted on
MIN_TIMEOUT_SECONDS: Final = 600.0
ANNOUNCED_STEP_SECONDS: Final = 5
ANNOUNCED_TOLERANCE: Final = 1.25  # the median of a few starts differs by that from day to day
MAX_SECONDS: Final = 7200.0  # a slower one says more of a broken pod than of the next


@dataclass(frozen=True, slots=True)
class ColdStarts:
    """The last starts, oldest first. A pod counts once: one that was ready before doesn't start again."""

    seconds: tuple[float, ...] = ()
    starting: frozenset[str] = frozenset()  # pods that were never seen ready
    started: frozenset[str] = frozenset()

    @property
    def median_seconds(self) -> float:
        """The cold start to expect."""
        return self._quantile_seconds(0.5)

    @property
    def slow_seconds(self) -> float:
        """What nine of ten stay below (p90)."""
        return self._quantile_seconds(0.9)

    @property
    def start_up(self) -> StartUp:
        """What to expect of the pods that start now."""
        slow_seconds = self.slow_seconds
        timeout_seconds = max(MIN_TIMEOUT_SECONDS, TIMEOUT_COLD_STARTS * slow_seconds)
        return StartUp(self.median_seconds, timeout_seconds, slow_seconds)

    def measure(self, workers: Iterable[WorkerPod]) -> "ColdStarts":
        """With the pods of one more tick.

        Only the start of a pod that was seen starting is measured: after a restart of the operator nobody knows
        whether a ready pod was not ready in between.
        """
        pods = tuple(workers)
        ready = frozenset(pod.name for pod in pods if pod.ready_at is not None)
        if self.started == ready and self.starting == {pod.name for pod in pods} - ready:
            return self
        fresh = sorted(
            (pod.ready_at, (pod.ready_at - pod.created_at).total_seconds())
            for pod in pods
            if pod.ready_at is not None and pod.name in self.starting
        )
        measured = [seconds for _, seconds in fresh if 0 < seconds <= MAX_SECONDS]
        started = (self.started & {pod.name for pod in pods}) | ready
        return ColdStarts(
            seconds=(*self.seconds, *measured)[-REMEMBERED_STARTS:],
            starting=frozenset(pod.name for pod in pods) - started,
            started=started,
        )

    def _quantile_seconds(self, quantile: float) -> float:
        if not self.seconds:
            return ASSUMED_COLD_START_SECONDS
        ordered = sorted(self.seconds)
        return ordered[max(0, math.ceil(quantile * len(ordered)) - 1)]


def recall_cold_starts(seconds: Sequence[float]) -> ColdStarts:
    """What an operator knew before its restart."""
    believable = tuple(float(each) for each in seconds if 0 < each <= MAX_SECONDS)
    return replace(ColdStarts(), seconds=believable[-REMEMBERED_STARTS:])


def round_for_gateways(median_seconds: float, announced_seconds: float | None) -> int:
    """The cold start as gateways hear of it: coarsely, and what they have heard for as long as that is about right, so
    that their configuration isn't written anew with each start. They have heard ``announced_seconds``, or nothing.
    """
    if announced_seconds is not None and announced_seconds > 0:
        low, high = sorted((announced_seconds, median_seconds))
        if high <= ANNOUNCED_TOLERANCE * low or high - low <= ANNOUNCED_STEP_SECONDS:
            return round(announced_seconds)
    return max(1, math.ceil(median_seconds / ANNOUNCED_STEP_SECONDS)) * ANNOUNCED_STEP_SECONDS
