"""What a bank is fed with, out of an observation."""

import math

from easel_operator.autoscaling.counters import count_within
from easel_operator.autoscaling.observation import Observation
from easel_operator.autoscaling.replay.bank import Load, QueueState


def build_load(observation: Observation, floor: int, target_seconds: float) -> Load | None:
    """What came since the service was last seen; None while no gateway can say, which isn't silence.

    Args:
        observation: of this tick.
        floor: pods that the service has whatever comes.
        target_seconds: a job that took longer was late.
    """
    growth, arrivals = observation.growth, observation.arrivals
    if growth is None or growth.submitted is None or arrivals.arrived_gpu_seconds is None:
        return None
    predicted, bounded = growth.predicted_gpu_seconds, arrivals.arrived_gpu_seconds
    finished = growth.latency_buckets.get(math.inf, 0.0)
    return Load(
        seconds=arrivals.arrived_seconds,
        jobs=growth.submitted,
        gpu_seconds=bounded,
        excess_gpu_seconds=max(0.0, (predicted or 0.0) - bounded),
        busy_pods=arrivals.gpu_seconds_per_second,
        job_seconds=arrivals.job.mean_seconds,
        floor=floor,
        queue=_read_queue(observation),
        finished=finished,
        late=finished - count_within(growth.latency_buckets, target_seconds),
    )


def _read_queue(observation: Observation) -> QueueState | None:
    queue, gpu_seconds = observation.queue, observation.backlog_gpu_seconds
    if queue is None or gpu_seconds is None:
        return None
    return QueueState(observation.pods.ready, queue.waiting, gpu_seconds)
