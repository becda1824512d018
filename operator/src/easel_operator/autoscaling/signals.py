"""What each signal asks for, in pods, before the planner's guards: the queue's depth, and latency over its target."""

import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from easel_contract.resource import ScalingSpec

from easel_operator.autoscaling.counters import WINDOW
from easel_operator.autoscaling.observation import Observation, QueueReading

MAXIMUM_UTILISATION: Final = 0.9  # of the pods that stay, when one is given up
MINIMUM_EVIDENCE_JOBS: Final = 5.0  # finished under load, before the measured capacity is believed
CAPACITY_HALF_LIFE_SECONDS: Final = 600.0  # of time under load
BUSY_TIME_CONSTANT_SECONDS: Final = 60.0

MAXIMUM_GROWTH: Final = 2.0  # of the ready pods, per step of the latency signal
COMFORT: Final = 0.7  # share of the target latency below which the latency signal lets go
SETTLE_LIMIT: Final = timedelta(minutes=10)  # pods that never become ready don't silence the latency signal for ever


@dataclass(frozen=True, slots=True)
class Proposal:
    """A number of pods and the figures behind it."""

    replicas: int
    because: str


@dataclass(frozen=True, slots=True)
class Load:
    """What the pods were measured to do: it keeps a pod from being given up whose work the others couldn't carry.

    ``finished`` jobs in ``pod_seconds`` of ready pods while work waited, faded, are one pod's capacity, batches and
    all. ``busy_pods`` is the moving mean of pods that weren't idle; it bounds what a stale capacity could hold.
    """

    finished: float = 0.0
    pod_seconds: float = 0.0
    busy_pods: float = 0.0
    was_waiting: bool = False

    def measure(self, observation: Observation) -> "Load":
        """This load with one more tick; unchanged where the tick tells nothing."""
        seconds, queue = observation.elapsed_seconds, observation.queue
        if seconds is None or queue is None:
            return replace(self, was_waiting=False)  # jobs counted next time fall into time that nobody watched
        ready = observation.pods.ready
        busy = max(0, ready - observation.idle_workers)  # a ready pod that doesn't answer counts as busy
        share = 1.0 - math.exp(-seconds / BUSY_TIME_CONSTANT_SECONDS)
        measured = replace(
            self, busy_pods=self.busy_pods + (busy - self.busy_pods) * share, was_waiting=queue.waiting > 0
        )
        if observation.finished is None or not (self.was_waiting and queue.waiting):
            return measured
        fade = 0.5 ** (seconds / CAPACITY_HALF_LIFE_SECONDS)
        return replace(
            measured,
            finished=self.finished * fade + observation.finished,
            pod_seconds=self.pod_seconds * fade + ready * seconds,
        )

    def needed_replicas(self, arrivals_per_second: float | None) -> int:
        """Pods without which the arrivals couldn't be carried; 0 if that isn't known."""
        if arrivals_per_second is None or self.finished < MINIMUM_EVIDENCE_JOBS or self.pod_seconds <= 0:
            return 0
        by_rate = arrivals_per_second * self.pod_seconds / self.finished
        return math.ceil(min(by_rate, self.busy_pods) / MAXIMUM_UTILISATION)


def propose_for_queue(
    observation: Observation, queue: QueueReading, load: Load, held: int, settings: ScalingSpec
) -> Proposal:
    """Requests waiting and running over the target per pod; no fewer of the ``held`` pods than the arrivals need.

    The order is absolute, not relative to the pods at hand, so a backlog orders the same pods however many are ready.
    """
    depth, target = queue.depth, settings.target_queue_depth
    by_depth = math.ceil(depth / target)
    kept = min(load.needed_replicas(observation.arrivals_per_second), held)
    if kept > by_depth:
        return Proposal(
            kept,
            f"{observation.arrivals_per_second:.2g} requests/s keep {load.busy_pods:.1f} pods busy",
        )
    if depth == 0:
        return Proposal(0, "nothing waits or runs")
    return Proposal(by_depth, f"{depth} request{'' if depth == 1 else 's'} waiting or running, target {target} a pod")


@dataclass(frozen=True, slots=True)
class LatencyState:
    """What the latency signal asked for last."""

    replicas: int = 0
    changed_at: datetime | None = None
    ready_since: datetime | None = None  # when all the pods it asked for were ready

    def is_settled(self, now: datetime) -> bool:
        """Whether the measured latency is that of the pods asked for: ready, and for as long as the window looks back.

        Before, late jobs tell of the past; growing on them would order 4, 8, 16 pods while the first ones load.
        """
        if self.changed_at is None or now - self.changed_at >= SETTLE_LIMIT:
            return True
        return self.ready_since is not None and now - self.ready_since >= WINDOW

    def move_to(self, replicas: int, now: datetime) -> "LatencyState":
        """The state after asking for this many."""
        return self if replicas == self.replicas else LatencyState(replicas, now)


def measure_lateness_seconds(observation: Observation) -> float | None:
    """p95 of what finished, or the age of what waits if that is more: stuck requests never reach the histogram."""
    age = observation.queue.oldest_waiting_age_seconds if observation.queue else None
    known = [seconds for seconds in (observation.latency_p95_seconds, age) if seconds is not None]
    return max(known, default=None)


def propose_for_latency(
    observation: Observation, state: LatencyState, settings: ScalingSpec, now: datetime
) -> tuple[Proposal, LatencyState]:
    """Grow in proportion, at most twofold, while jobs are late and work waits; let go slowly once they are early."""
    ready = observation.pods.ready
    if state.ready_since is None and ready >= state.replicas:
        state = replace(state, ready_since=now)
    target, lateness = settings.target_latency_seconds, measure_lateness_seconds(observation)
    queue = observation.queue
    if queue is None or (lateness is None and queue.depth):
        return Proposal(state.replicas, "latency unknown"), state
    if queue.depth == 0 or lateness is None:
        return Proposal(0, "nothing waits"), state.move_to(0, now)
    because = f"latency {lateness:.0f} s (p95 or oldest waiting), target {target} s, {queue.waiting} waiting"
    if lateness > target and queue.waiting and state.is_settled(now):
        grown = math.ceil(ready * min(MAXIMUM_GROWTH, lateness / target))
        state = state.move_to(min(max(state.replicas, grown), settings.max_replicas), now)
    elif lateness <= COMFORT * target and state.replicas and state.is_settled(now):
        state = state.move_to(state.replicas - 1, now)
    return Proposal(state.replicas, because), state
