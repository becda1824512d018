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
from typing import Final

from easel_contract.resource import ScalingSpec

from easel_operator.autoscaling.observation import Observation
from easel_operator.autoscaling.proposal import NOTHING, Proposal
from easel_operator.autoscaling.replay.setting import Setting
from easel_operator.autoscaling.workers import StartUp

DRAIN_TARGETS: Final = 2.0  # of the time that a request may wait: time to work off what is left, at no margin
DRAIN_EXPONENT: Final = 0.15  # by which the margin shortens it
LONG_JOB: Final = 2.0  # mean jobs: what few jobs exceed
ROUNDING: Final = 1e-9
MIN_SLACK: Final = 0.25  # of the target that a job is let wait, however long jobs are


def count_pods(
    gpu_seconds: float,
    arriving: float,
    ready: int,
    rests: Sequence[float],
    cold_start_seconds: float,
    drain_seconds: float,
    most: int,
) -> int:
    """The pods to keep or to order; ``most`` if that many aren't enough.

    Plain numbers, since the shadow fleets (replay/) count them thousands of times a second.

    Args:
        gpu_seconds: the backlog.
        arriving: GPU-seconds per second that are expected.
        ready: pods that are.
        rests: seconds until each starting pod is ready, the soonest first.
        cold_start_seconds: of a pod that is ordered now.
        drain_seconds: time in which what the last of them finds is to be worked off.
        most: the largest answer.
    """
    ordered = _count_ordered(
        gpu_seconds + arriving * cold_start_seconds, arriving, ready, rests, cold_start_seconds, drain_seconds
    )
    if ordered < ready + len(rests):
        ordered = max(ordered, _count_kept(gpu_seconds, arriving, ready, rests, drain_seconds))
    return min(ordered, most)


def _count_ordered(
    left: float, arriving: float, ready: int, rests: Sequence[float], cold_start_seconds: float, drain_seconds: float
) -> int:
    """``left``: of the backlog, and what comes meanwhile, a cold start from now if no pod works."""
    # Each of the ready ones takes as much of it, so what is enough of them is one division.
    pods = max(
        math.ceil(arriving - ROUNDING),
        math.ceil((arriving + left / drain_seconds - ROUNDING) / (1.0 + cold_start_seconds / drain_seconds)),
    )
    if pods <= ready:
        return pods
    left -= cold_start_seconds * ready
    pods = ready
    for rest in rests:
        left -= cold_start_seconds - rest
        pods += 1
        if pods >= arriving + max(0.0, left) / drain_seconds - ROUNDING:
            return pods
    return max(pods, math.ceil(arriving + max(0.0, left) / drain_seconds - ROUNDING))


def _count_kept(gpu_seconds: float, arriving: float, ready: int, rests: Sequence[float], drain_seconds: float) -> int:
    pods = math.ceil(arriving + gpu_seconds / drain_seconds - ROUNDING)
    if pods <= ready:
        return pods
    pods, done_before = ready, 0.0  # sum of the rests of the pods before this one
    for last in rests:
        pods += 1
        left = gpu_seconds + arriving * last - (pods - 1) * last + done_before
        if pods >= arriving + max(0.0, left) / drain_seconds - ROUNDING:
            return pods
        done_before += last
    return pods


def propose_for_queue(observation: Observation, start_up: StartUp, setting: Setting, scaling: ScalingSpec) -> Proposal:
    """Pods that work the backlog off in time; at least those that targetQueueDepth asks for, where it is set."""
    queue, gpu_seconds = observation.queue, observation.bounded_backlog_gpu_seconds
    if queue is None or gpu_seconds is None or queue.depth == 0:
        return NOTHING
    job_seconds, arriving = observation.arrivals.job.mean_seconds, observation.arrivals.gpu_seconds_per_second
    overrunning = observation.overrunning_pods  # which do nothing of what waits
    rests = [
        max(0.0, start_up.cold_start_seconds - age)
        for age in start_up.list_starting_ages_seconds(observation.pods, observation.at)
    ]
    # A request keeps one pod busy, so more pods than requests, with those to come meanwhile, are of no use.
    requests = queue.depth - overrunning + math.ceil(arriving * start_up.cold_start_seconds / job_seconds)
    # One more than the maximum, so that the sentence can say that more were needed.
    most = scaling.max_replicas + 1
    pods = count_pods(
        gpu_seconds,
        setting.expected_arrivals * arriving,
        observation.pods.ready - overrunning,
        rests,
        start_up.cold_start_seconds,
        find_drain_seconds(scaling.target_latency_seconds, job_seconds, setting.margin),
        most,
    )
    by_work = min(most, max(1, overrunning + min(pods, requests)))
    depth, target = queue.depth, scaling.target_queue_depth
    by_depth = math.ceil(depth / target) if target is not None else 0
    if by_depth > by_work:
        return Proposal(by_depth, f"{depth} request{'' if depth == 1 else 's'} waiting or running, {target} a pod")
    return Proposal(by_work, f"{_figure(gpu_seconds)} GPU-seconds queued{explain_overrunning(overrunning)}")


def find_drain_seconds(target_seconds: float, job_seconds: float, margin: float) -> float:
    """Time in which the backlog that new pods find is to be worked off."""
    slack = max(target_seconds - LONG_JOB * job_seconds, MIN_SLACK * target_seconds)
    return DRAIN_TARGETS * slack * math.exp(-DRAIN_EXPONENT * margin)


def explain_overrunning(pods: int) -> str:
    """The part of a sentence that says why some pods count for nothing else; empty where there are none."""
    if not pods:
        return ""
    return f", {pods} pod{'' if pods == 1 else 's'} busy with jobs that run for longer than the target"


def _figure(gpu_seconds: float) -> str:
    return f"{gpu_seconds:.0f}" if gpu_seconds >= 10 else f"{gpu_seconds:.2g}"
