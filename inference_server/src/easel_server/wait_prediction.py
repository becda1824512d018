"""Predicts how long work waits, from what is ahead of it and the workers that are or will be there. Pure."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Capacity:
    """Who will do the work."""

    workers: int  # that take work now
    max_workers: int  # that there may be once the service has scaled
    start_seconds: float  # from ordering a worker to its first job


def predict_wait_seconds(gpu_seconds_ahead: float, capacity: Capacity) -> float:
    """Seconds until work of ``gpu_seconds_ahead`` has been handed out; infinite if there will be no worker.

    Those who are there begin at once; those who may be added begin ``start_seconds`` later and share what is left.
    """
    most = max(capacity.workers, capacity.max_workers)
    if most == 0:
        return math.inf
    done_by_then = capacity.workers * capacity.start_seconds
    if capacity.workers and (gpu_seconds_ahead <= done_by_then or most == capacity.workers):
        return gpu_seconds_ahead / capacity.workers
    return capacity.start_seconds + (gpu_seconds_ahead - done_by_then) / most
