"""Headroom over the arriving work, fed back from the share of late jobs; and a cap on the oldest wait.

A pod more or less than the arrivals keep busy decides how many jobs are late, and no formula knows by how much:
bursts, cold starts and job lengths differ from service to service. So the headroom is learned, as a price on lateness:
each late job raises it, each punctual one lowers it, until the budget is just used. Too many pods are then as much of a
fault as too few.
"""

import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from easel_operator.autoscaling.backlog import explain_overrunning
from easel_operator.autoscaling.counters import CounterReading, count_within
from easel_operator.autoscaling.observation import Observation
from easel_operator.autoscaling.proposal import Proposal
from easel_operator.autoscaling.workers import StartUp

LATE_BUDGET: Final = 0.05  # of all jobs: the target is a p95
USED_BUDGET: Final = 0.9  # aim below the limit by as much as the feedback swings
MIN_STEP: Final = 0.003  # of the headroom, per job
MAX_STEP: Final = 0.01
STEP_PER_SECOND: Final = 0.0001  # a service with few jobs learns as fast in time as one with many
JOB_RATE_SECONDS: Final = 21600.0  # time constant of the mean rate of jobs behind the step
MIN_WEIGHT: Final = 0.05  # of it: the first jobs don't speak for longer than 5 % of its time constant
MAX_HEADROOM: Final = 8.0
# Of a new service. Headroom that has to be learned costs late jobs, and a service with few of them pays for days with
# more than its budget. What isn't needed is unlearned at the price of a pod, and with nobody waiting.
FIRST_HEADROOM: Final = 0.5
RECENT_STEP: Final = 0.006  # per job, of the part that is forgotten: bursts come in company
RECENT_SECONDS: Final = 900.0
MAX_RECENT_HEADROOM: Final = 3.0
HEADROOM_EXPONENT: Final = 0.3  # arrivals vary by less than they grow: large fleets need a smaller share of headroom
ROUNDED_WHEN_ORDERED: Final = 0.3  # of a pod: none is ordered for so little
ROUNDED_WHEN_KEPT: Final = 0.1  # so that a rate between two numbers of pods doesn't flap; the last pod isn't kept by it

MAX_WAIT_TARGETS: Final = 2.0
MAX_GROWTH: Final = 2.0  # of the ready pods, per step, while the oldest request waits for too long
SETTLING: Final = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class ErrorBudget:
    """Headroom in pods, where one pod is busy; HEADROOM_EXPONENT says how it grows with them."""

    lasting: float = 0.0
    recent: float = 0.0  # on top, and forgotten within RECENT_SECONDS or so
    jobs_weighted: float = 0.0  # mean rate of finished jobs, and the weight of what it has seen
    weight: float = 0.0

    @property
    def headroom(self) -> float:
        """What was learned, for long and of late."""
        return min(self.lasting + self.recent, MAX_HEADROOM)

    def learn(self, growth: CounterReading | None, target_seconds: float, elapsed_seconds: float) -> "ErrorBudget":
        """With the jobs that finished since the previous tick."""
        if elapsed_seconds <= 0:
            return self
        remembered = self.recent * math.exp(-elapsed_seconds / RECENT_SECONDS)
        if growth is None or not growth.latency_buckets:
            return replace(self, recent=remembered)
        done = growth.latency_buckets.get(math.inf, 0.0)
        late = done - count_within(growth.latency_buckets, target_seconds)
        kept = math.exp(-elapsed_seconds / JOB_RATE_SECONDS)
        jobs = self.jobs_weighted * kept + done / elapsed_seconds * (1.0 - kept)
        weight = self.weight * kept + 1.0 - kept
        step = self._step(jobs / max(weight, MIN_WEIGHT))
        excess = late - USED_BUDGET * LATE_BUDGET * done
        return ErrorBudget(
            lasting=min(max(self.lasting + step * excess, 0.0), MAX_HEADROOM),
            recent=min(max(remembered + RECENT_STEP * excess, 0.0), MAX_RECENT_HEADROOM),
            jobs_weighted=jobs,
            weight=weight,
        )

    @staticmethod
    def _step(jobs_per_second: float) -> float:
        if jobs_per_second <= STEP_PER_SECOND / MAX_STEP:
            return MAX_STEP
        return max(MIN_STEP, STEP_PER_SECOND / jobs_per_second)

    def pods_for(self, busy_pods: float, held: int) -> int:
        """Pods to have for arrivals that keep ``busy_pods`` busy, where ``held`` are there or ordered."""
        needed = busy_pods + self.headroom * math.pow(busy_pods, HEADROOM_EXPONENT)
        ordered = max(0, math.ceil(needed - ROUNDED_WHEN_ORDERED))
        if ordered < held and needed > 1.0:
            return min(held, math.ceil(needed - ROUNDED_WHEN_KEPT))
        return ordered


@dataclass(frozen=True, slots=True)
class OldestWait:
    """Pods asked for because a request waited for too long, which a p95 doesn't see; 0 for none."""

    replicas: int = 0
    asked_at: datetime | None = None  # or when the last of them was still on its way

    def watch(self, observation: Observation, longest_seconds: float, start_up: StartUp) -> "OldestWait":
        """With one more tick. ``longest_seconds``: what a request may wait.

        Pods that are on their way are waited for, and a cold start and SETTLING longer, before more are asked for.
        """
        queue, now = observation.queue, observation.at
        age = queue.oldest_waiting_age_seconds if queue else None
        if queue is None or age is None:
            return self
        if age <= longest_seconds or not queue.waiting:
            return OldestWait()
        if start_up.list_starting_ages_seconds(observation.pods, now):
            return self if self.asked_at is None else OldestWait(self.replicas, now)
        pause = timedelta(seconds=start_up.cold_start_seconds) + SETTLING
        if self.asked_at is not None and now - self.asked_at < pause:
            return self
        grown = math.ceil(observation.pods.ready * min(MAX_GROWTH, age / longest_seconds))
        return OldestWait(max(self.replicas, grown, 1), now)


def propose_for_lateness(observation: Observation, budget: ErrorBudget, wait: OldestWait, held: int) -> Proposal:
    """Pods for the work that arrives, with the headroom that the lateness so far asks for; or, where more are needed,
    for a request that waits for too long."""
    busy, overrunning = observation.arrivals.gpu_seconds_per_second, observation.overrunning_pods
    pods = overrunning + budget.pods_for(busy, max(0, held - overrunning))
    if wait.replicas > pods:
        age = observation.queue.oldest_waiting_age_seconds if observation.queue else None
        return Proposal(wait.replicas, f"the oldest request waits for {age or 0.0:.0f} s")
    because = f"arrivals keep {busy:.2g} pods busy"
    if budget.headroom >= 0.05:
        because += f", headroom for lateness {budget.headroom * math.pow(busy, HEADROOM_EXPONENT):.1f}"
    return Proposal(pods, because + explain_overrunning(overrunning))
