"""Pods for the backlog: as few as work it off in time, given those that are ready and those that are on their way.

Let rest(i) be the time until the i-th pod is ready: 0 for those that are, and a cold start for one that is ordered now.
With k pods, when the last of them gets ready the backlog has come down to

    left(k) = max(0, backlog + arriving * rest(k) - sum over i < k: rest(k) - rest(i))

and k pods are enough once  k >= arriving + left(k) / drain_seconds.

Of the pods that are there, ready or starting, the least number that is enough is *kept*: none is scaled down before it
has done what it was ordered for. More than are there are *ordered* only for what all of those will have left when a new
one would be ready: so a backlog isn't ordered twice while the first pods load.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from easel_contract.resource import ScalingSpec

from easel_operator.autoscaling.observation import Observation
from easel_operator.autoscaling.proposal import NOTHING, Proposal
from easel_operator.autoscaling.workers import StartUp

EXPECTED_ARRIVALS: Final = 0.7  # of the measured rate, which is an upper mean: what comes orders its own pods
DRAIN_TARGETS: Final = 2.0  # of the time that a request may wait: time to work off what is left, at no headroom
DRAIN_EXPONENT: Final = 0.15  # by which the headroom for lateness shortens it
LONG_JOB: Final = 2.0  # mean jobs: what few jobs exceed
ROUNDING: Final = 1e-9
MIN_SLACK: Final = 0.25  # of the target that a job is let wait, however long jobs are


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is to be worked off, and by whom."""

    gpu_seconds: float
    arriving: float  # GPU-seconds per second that are expected
    ready: int
    starting_ages_seconds: Sequence[float]  # oldest first
    cold_start_seconds: float
    drain_seconds: float

    def count_pods(self, most: int) -> int:
        """The pods to keep or to order; ``most`` if that many aren't enough."""
        rests = [0.0] * min(self.ready, most)
        rests += [max(0.0, self.cold_start_seconds - age) for age in self.starting_ages_seconds[: most - len(rests)]]
        ordered = self._count_ordered(rests, most)
        return ordered if ordered >= len(rests) else max(ordered, self._count_kept(rests))

    def _count_kept(self, rests: Sequence[float]) -> int:
        done_before = 0.0  # sum of the rests of the pods before this one
        for pods, last in enumerate((0.0, *rests)):
            left = self.gpu_seconds + self.arriving * last - max(0, pods - 1) * last + done_before
            if self._is_enough(pods, left):
                return pods
            done_before += last
        return len(rests)

    def _count_ordered(self, rests: Sequence[float], most: int) -> int:
        left = self.gpu_seconds + self.arriving * self.cold_start_seconds
        for pods in range(most):
            if self._is_enough(pods, left):
                return pods
            if pods < len(rests):
                left -= self.cold_start_seconds - rests[pods]
        return most

    def _is_enough(self, pods: int, left: float) -> bool:
        return pods >= self.arriving + max(0.0, left) / self.drain_seconds - ROUNDING


def propose_for_queue(observation: Observation, start_up: StartUp, headroom: float, scaling: ScalingSpec) -> Proposal:
    """Pods that work the backlog off in time; at least those that targetQueueDepth asks for, where it is set."""
    queue, gpu_seconds = observation.queue, observation.bounded_backlog_gpu_seconds
    if queue is None or gpu_seconds is None or queue.depth == 0:
        return NOTHING
    job_seconds, arriving = observation.arrivals.job.mean_seconds, observation.arrivals.gpu_seconds_per_second
    overrunning = observation.overrunning_pods  # which do nothing of what waits
    backlog = Backlog(
        gpu_seconds=gpu_seconds,
        arriving=EXPECTED_ARRIVALS * arriving,
        ready=observation.pods.ready - overrunning,
        starting_ages_seconds=start_up.list_starting_ages_seconds(observation.pods, observation.at),
        cold_start_seconds=start_up.cold_start_seconds,
        drain_seconds=find_drain_seconds(scaling, job_seconds, headroom),
    )
    # A request keeps one pod busy, so more pods than requests, with those to come meanwhile, are of no use.
    requests = queue.depth - overrunning + math.ceil(arriving * start_up.cold_start_seconds / job_seconds)
    # One more than the maximum, so that the sentence can say that more were needed.
    most = scaling.max_replicas + 1
    by_work = min(most, max(1, overrunning + min(backlog.count_pods(most), requests)))
    depth, target = queue.depth, scaling.target_queue_depth
    by_depth = math.ceil(depth / target) if target is not None else 0
    if by_depth > by_work:
        return Proposal(by_depth, f"{depth} request{'' if depth == 1 else 's'} waiting or running, {target} a pod")
    return Proposal(by_work, f"{_figure(gpu_seconds)} GPU-seconds queued{explain_overrunning(overrunning)}")


def find_drain_seconds(scaling: ScalingSpec, job_seconds: float, headroom: float) -> float:
    """Time in which the backlog that new pods find is to be worked off."""
    target = scaling.target_latency_seconds
    slack = max(target - LONG_JOB * job_seconds, MIN_SLACK * target)
    return DRAIN_TARGETS * slack * math.exp(-DRAIN_EXPONENT * headroom)


def explain_overrunning(pods: int) -> str:
    """The part of a sentence that says why some pods count for nothing else; empty where there are none."""
    if not pods:
        return ""
    return f", {pods} pod{'' if pods == 1 else 's'} busy with jobs that run for longer than the target"


def _figure(gpu_seconds: float) -> str:
    return f"{gpu_seconds:.0f}" if gpu_seconds >= 10 else f"{gpu_seconds:.2g}"
