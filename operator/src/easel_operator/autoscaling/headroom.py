"""Headroom over the arriving work, and a cap on the oldest wait.

A pod more or less than the arrivals keep busy decides how many jobs are late, and no formula knows by how much: bursts,
cold starts and job lengths differ from service to service. So the margin comes from a replay of the service's own
arrivals (replay/); here is what it means in pods.
"""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from easel_operator.autoscaling.backlog import explain_overrunning
from easel_operator.autoscaling.observation import Observation
from easel_operator.autoscaling.proposal import Proposal
from easel_operator.autoscaling.workers import StartUp

LATE_BUDGET: Final = 0.05  # of all jobs: the target is a p95
HEADROOM_EXPONENT: Final = 0.3  # arrivals vary by less than they grow: large fleets need a smaller share of headroom
ROUNDED_WHEN_ORDERED: Final = 0.3  # of a pod: none is ordered for so little
ROUNDED_WHEN_KEPT: Final = 0.1  # so that a rate between two numbers of pods doesn't flap; the last pod isn't kept by it

MAX_WAIT_TARGETS: Final = 2.0
MAX_GROWTH: Final = 2.0  # of the ready pods, per step, while the oldest request waits for too long
SETTLING: Final = timedelta(seconds=60)


def find_longest_wait_seconds(target_seconds: float, cold_start_seconds: float, overtaken_seconds: float) -> float:
    """What the oldest request may wait before pods are asked for because of it.

    A late one that yields for ``overtaken_seconds`` waits because it was told to, not for want of pods; 0 where
    none does.
    """
    return max(MAX_WAIT_TARGETS * target_seconds + cold_start_seconds, overtaken_seconds)


def pods_for(busy_pods: float, margin: float, held: int) -> int:
    """Pods to have for arrivals that keep ``busy_pods`` busy, where ``held`` are there or ordered.

    ``margin``: pods on top where one is busy; HEADROOM_EXPONENT says how it grows with them.
    """
    needed = busy_pods + margin * math.pow(busy_pods, HEADROOM_EXPONENT)
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


def propose_for_lateness(observation: Observation, margin: float, wait: OldestWait, held: int) -> Proposal:
    """Pods for the work that arrives, with the margin; or, where more are needed, for a request that waits for too
    long."""
    busy, overrunning = observation.arrivals.gpu_seconds_per_second, observation.overrunning_pods
    pods = overrunning + pods_for(busy, margin, max(0, held - overrunning))
    if wait.replicas > pods:
        age = observation.queue.oldest_waiting_age_seconds if observation.queue else None
        return Proposal(wait.replicas, f"the oldest request waits for {age or 0.0:.0f} s")
    return Proposal(pods, f"arrivals keep {busy:.2g} pods busy{explain_overrunning(overrunning)}")
