"""How much work arrives, in GPU-seconds a second: the number of pods that it keeps busy. And how long a job is.

Work is *bounded*, unless said otherwise: each job's counts as at most what one pod can do of it within the target. More
pods do no more of it in time, and a single long job says nothing of those to come.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Final

from easel_operator.autoscaling.counters import CounterReading

FAST_SECONDS: Final = 30.0
SLOW_SECONDS: Final = 120.0
WEIGHT_OF_LARGER: Final = 0.7
# The first readings don't speak for longer than they took: until this much time was seen, the rest counts as silent.
MIN_SEEN_SECONDS: Final = 60.0

ASSUMED_JOB_SECONDS: Final = 5.0  # until a job was measured
JOB_MEMORY: Final = 200.0  # jobs that a mean looks back on


@dataclass(frozen=True, slots=True)
class MovingRate:
    """An exponentially weighted mean of a rate, exact for ticks of any length, with the time that it has seen."""

    time_constant_seconds: float
    weighted: float = 0.0
    weight: float = 0.0  # 1 once much more time than the time constant was seen

    def add(self, amount: float, seconds: float) -> "MovingRate":
        """The mean with ``amount`` that came evenly within the last ``seconds``."""
        kept = math.exp(-seconds / self.time_constant_seconds)
        return replace(
            self,
            weighted=self.weighted * kept + amount / seconds * (1.0 - kept),
            weight=self.weight * kept + 1.0 - kept,
        )

    @property
    def per_second(self) -> float:
        """The mean rate, without the bias of a mean that begins at 0."""
        least = 1.0 - math.exp(-MIN_SEEN_SECONDS / self.time_constant_seconds)
        return self.weighted / max(self.weight, least)


@dataclass(frozen=True, slots=True)
class JobLength:
    """Mean GPU-seconds of a job, over the last JOB_MEMORY jobs or so."""

    jobs: float = 0.0
    gpu_seconds: float = 0.0

    def add(self, jobs: float, gpu_seconds: float) -> "JobLength":
        """The mean with some more jobs."""
        kept = math.exp(-jobs / JOB_MEMORY)
        return JobLength(self.jobs * kept + jobs, self.gpu_seconds * kept + gpu_seconds)

    @property
    def mean_seconds(self) -> float:
        """ASSUMED_JOB_SECONDS while nothing is known."""
        return self.gpu_seconds / self.jobs if self.jobs >= 1.0 and self.gpu_seconds > 0 else ASSUMED_JOB_SECONDS


@dataclass(frozen=True, slots=True)
class Arrivals:
    """The work that gateways accepted."""

    fast: MovingRate = field(default_factory=lambda: MovingRate(FAST_SECONDS))
    slow: MovingRate = field(default_factory=lambda: MovingRate(SLOW_SECONDS))
    unbounded_fast: MovingRate = field(default_factory=lambda: MovingRate(FAST_SECONDS))
    unbounded_slow: MovingRate = field(default_factory=lambda: MovingRate(SLOW_SECONDS))
    job: JobLength = field(default_factory=JobLength)
    unreported_seconds: float = 0.0  # time since a gateway last reported; its next answer covers it
    arrived_gpu_seconds: float | None = None  # within arrived_seconds, reported at this tick; None: nobody reported
    arrived_seconds: float = 0.0

    @property
    def gpu_seconds_per_second(self) -> float:
        """Busy pods that the arrivals ask for: a mean of the short and the long mean that leans to the larger.

        A burst counts at once, and is not forgotten in the next lull.
        """
        return _lean_to_larger(self.fast.per_second, self.slow.per_second)

    @property
    def unbounded_gpu_seconds_per_second(self) -> float:
        """The same of all the work, however long a job is: for autoscalers that divide it among pods."""
        return _lean_to_larger(self.unbounded_fast.per_second, self.unbounded_slow.per_second)

    def measure(self, growth: CounterReading | None, seconds: float) -> "Arrivals":
        """With one more tick of ``seconds``; None where there was no earlier one.

        A tick at which no gateway reports is not silence: what came meanwhile is in the next answer.
        """
        if growth is None or seconds <= 0:
            return replace(self, arrived_gpu_seconds=None)
        job = self._measure_job(growth)
        work = growth.predicted_gpu_seconds
        if work is None and growth.submitted is not None:  # a server of an earlier release
            work = growth.submitted * job.mean_seconds
        bounded = work if growth.bounded_gpu_seconds is None else growth.bounded_gpu_seconds
        covered = self.unreported_seconds + seconds
        if work is None or bounded is None:
            return replace(self, job=job, unreported_seconds=covered, arrived_gpu_seconds=None)
        return Arrivals(
            fast=self.fast.add(bounded, covered),
            slow=self.slow.add(bounded, covered),
            unbounded_fast=self.unbounded_fast.add(work, covered),
            unbounded_slow=self.unbounded_slow.add(work, covered),
            job=job,
            unreported_seconds=0.0,
            arrived_gpu_seconds=bounded,
            arrived_seconds=covered,
        )

    def _measure_job(self, growth: CounterReading) -> JobLength:
        predicted = growth.predicted_gpu_seconds if growth.bounded_gpu_seconds is None else growth.bounded_gpu_seconds
        if predicted is not None and growth.submitted:
            return self.job.add(growth.submitted, predicted)
        if growth.predicted_gpu_seconds is None and growth.finished and growth.work_gpu_seconds:
            return self.job.add(growth.finished, growth.work_gpu_seconds)
        return self.job


def _lean_to_larger(one: float, other: float) -> float:
    low, high = sorted((one, other))
    return WEIGHT_OF_LARGER * high + (1.0 - WEIGHT_OF_LARGER) * low
