"""One worker pod of the simulation, the models that it holds, and which pods a ReplicaSet removes first."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class PodState(IntEnum):
    """STARTING → IDLE ⇄ BUSY → GONE; from each of the first three straight to GONE, from BUSY through DRAINING."""

    STARTING = 0
    IDLE = 1
    BUSY = 2
    DRAINING = 3  # chosen for removal while busy; finishes its job if that fits into the grace period
    GONE = 4


@dataclass(frozen=True, slots=True)
class ModelCosts:
    """What a pod takes to change to a model, before its job begins."""

    switch_seconds: float  # from the pod's RAM into the GPU's memory
    load_seconds: float  # from disk or the network


@dataclass(frozen=True, slots=True)
class Pool:
    """Pods that serve every model: how many each holds, and what it costs to change to another."""

    in_gpu: int  # models in a GPU's memory at a time, 1 or more
    in_ram: int  # besides, in the pod's RAM
    costs: Sequence[ModelCosts]  # by model

    @property
    def longest_seconds(self) -> float:
        """The longest change there is."""
        return max((max(cost.switch_seconds, cost.load_seconds) for cost in self.costs), default=0.0)


class LoadedModels:
    """Of one pod of a pool: the least recently used model leaves the GPU's memory for RAM, and RAM altogether."""

    __slots__ = ("_in_gpu", "_in_ram", "_pool")

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._in_gpu: list[int] = []  # the least recently used first
        self._in_ram: list[int] = []

    def find_seconds(self, model: int) -> float:
        """What a job of this model would wait for. A new pod's first model is part of its cold start."""
        if model in self._in_gpu or not self._in_gpu:
            return 0.0
        costs = self._pool.costs[model]
        return costs.switch_seconds if model in self._in_ram else costs.load_seconds

    def use(self, model: int) -> float:
        """Change to a model: seconds that it takes."""
        seconds = self.find_seconds(model)
        for place in (self._in_gpu, self._in_ram):
            if model in place:
                place.remove(model)
        self._in_gpu.append(model)
        if len(self._in_gpu) > self._pool.in_gpu:
            self._in_ram.append(self._in_gpu.pop(0))
        if len(self._in_ram) > self._pool.in_ram:
            del self._in_ram[0]
        return seconds


class Pod:
    """Mutable, since millions of events touch it."""

    __slots__ = (
        "busy_seconds",
        "created_at",
        "deletion_cost",
        "job",
        "job_began_at",
        "job_seconds",
        "models",
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
        self.job_seconds = 0.0  # that it takes here: its work, and the change to its model
        self.models: LoadedModels | None = None  # None: the service's only one
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
