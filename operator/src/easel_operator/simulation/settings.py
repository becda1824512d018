"""What a simulation takes from the service and the cluster, apart from the policy."""

import random
from dataclasses import dataclass, replace
from typing import Self

from easel_contract.resource import QueueOrder, ScalingSpec, StableDiffusionServiceSpec

from easel_operator.decide.grace import derive_grace_seconds
from easel_operator.simulation.pod import Pool
from easel_operator.simulation.waiting import OrderRule


@dataclass(frozen=True, slots=True)
class ColdStart:
    """Seconds from a pod's creation to its first job: uniform in ``seconds`` ± ``spread_seconds``, and longer by
    ``crowd_seconds`` for each pod that is starting already, since they share the disk and the network they load from.
    """

    seconds: float
    spread_seconds: float = 0.0
    crowd_seconds: float = 0.0

    def sample(self, source: random.Random, starting: int) -> float:
        """One pod's cold start in seconds, where ``starting`` others are on their way."""
        return self.seconds + self.spread_seconds * (2.0 * source.random() - 1.0) + self.crowd_seconds * starting


@dataclass(frozen=True, slots=True)
class Settings:
    """The service and its cluster."""

    spec: StableDiffusionServiceSpec
    cold_start: ColdStart
    seed: int = 0
    pool: Pool | None = None  # None: one model, which every pod loads while it starts

    @property
    def order_rule(self) -> OrderRule:
        """In which order requests are taken."""
        overtaken_seconds = self.scaling.find_max_overtaken_seconds(self.cold_start.seconds)
        return OrderRule(self.scaling.queue_order, self.target_seconds, overtaken_seconds)

    @property
    def scaling(self) -> ScalingSpec:
        """The service's bounds and targets. ValueError where it has a fixed number of pods."""
        if self.spec.scaling is None:
            raise ValueError("the service has spec.replicas; a simulation needs spec.scaling")
        return self.spec.scaling

    def order_by(self, order: QueueOrder) -> Self:
        """The same with another order of the queue."""
        scaling = self.scaling.model_copy(update={"queue_order": order})
        return replace(self, spec=self.spec.model_copy(update={"scaling": scaling}))

    @property
    def target_seconds(self) -> float:
        """A request that takes longer, from submitted to finished, is late."""
        return float(self.scaling.target_latency_seconds)

    def find_grace_seconds(self, longest_job_seconds: float) -> float:
        """What a pod that is removed may still take to finish its job.

        Unset, it is what the operator derives once it has seen the longest job: here, from the beginning.
        """
        set_seconds = self.spec.worker.termination_grace_period_seconds
        return float(derive_grace_seconds(longest_job_seconds) if set_seconds is None else set_seconds)

    @property
    def initial_replicas(self) -> int:
        """Pods that are ready at the beginning: a Deployment without ``replicas`` begins with one."""
        return max(1, self.scaling.min_replicas)
