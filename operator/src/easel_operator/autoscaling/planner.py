"""How many workers a service should have, and why in one sentence. The HorizontalPodAutoscaler carries it out."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from easel_contract.resource import ScalingSpec

from easel_operator.autoscaling.observation import Observation


@dataclass(frozen=True, slots=True)
class History:
    """What the planner must remember of a service from tick to tick."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One decision."""

    desired_replicas: int
    proposals: Mapping[str, int]  # by external metric name; the largest is desired_replicas
    sentence: str
    is_limited_by_capacity: bool  # more was wanted than the cluster can schedule
    data_at: datetime | None  # when the queue was last really read; publish the proposals as of then
    history: History


def begin_history(desired_replicas: int | None, now: datetime) -> History:
    """History of a service first seen at ``now``: a new one, or any after a restart of the operator.

    ``desired_replicas``: status.scaling.desiredReplicas if there is one, else spec.replicas of the worker Deployment,
    else None. It is held for scaleDownAfterSeconds, as if it had been wanted just now.
    """
    raise NotImplementedError


def plan(observation: Observation, history: History, settings: ScalingSpec, now: datetime) -> Plan:
    """Decide the number of workers of one service at one tick."""
    raise NotImplementedError


def to_external_values(decision: Plan, observation: Observation) -> dict[str, float]:
    """The external metrics of a service by name: the proposals, and the raw figures that are known."""
    raise NotImplementedError
