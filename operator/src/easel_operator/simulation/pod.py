"""One worker pod of the simulation, and which pods a ReplicaSet removes first."""

import math
from enum import IntEnum


class PodState(IntEnum):
    """STARTING → IDLE ⇄ BUSY → GONE; from each of the first three straight to GONE, from BUSY through DRAINING."""

    STARTING = 0
    IDLE = 1
    BUSY = 2
    DRAINING = 3  # chosen for removal while busy; finishes its job if that fits into the grace period
    GONE = 4


class Pod:
    """Mutable, since millions of events touch it."""

    __slots__ = (
        "busy_seconds",
        "created_at",
        "deletion_cost",
        "job",
        "job_began_at",
        "ready_at",
        "serial",
        "state",
        "uid",
    )

    def __init__(self, serial: int, uid: float, created_at: float) -> None:
        self.serial = serial
        self.uid = uid
        self.created_at = created_at
        self.ready_at = math.inf
        self.state = PodState.STARTING
        self.job = -1  # index of the request that it works on; -1: none
        self.job_began_at = 0.0
        self.busy_seconds = 0.0  # of jobs that ended
        self.deletion_cost = 0

    def measure_busy_seconds(self, now: float) -> float:
        """GPU time since it was created, the running job's included."""
        return self.busy_seconds + (now - self.job_began_at if self.job >= 0 else 0.0)

    def rank_for_removal(self, now: float) -> tuple[bool, int, int, float]:
        """The smallest goes first: not ready, then the lowest pod-deletion-cost, then the youngest.

        Ages are compared by their order of magnitude (of two), and by uid within one, as the ReplicaSet controller
        does: pkg/controller/controller_utils.go, ActivePodsWithRanks.
        """
        is_ready = self.state is not PodState.STARTING
        age_seconds = now - (self.ready_at if is_ready else self.created_at)
        return is_ready, self.deletion_cost, rank_age(age_seconds), self.uid


def rank_age(age_seconds: float) -> int:
    """Order of magnitude of an age, in powers of two of nanoseconds; -1 for none."""
    nanoseconds = int(age_seconds * 1e9)
    return nanoseconds.bit_length() - 1 if nanoseconds > 0 else -1
