"""How many replicas one metric asks for: the rules of pkg/controller/podautoscaler/replica_calculator.go.

Two rules surprise: an External metric with a ``Value`` target counts *ready* pods (those that are being deleted
among them), one with an ``AverageValue`` doesn't count pods at all; and a Pods metric takes a pod whose value is
missing for one that is exactly on target when it would scale down, and for an idle one when it would scale up.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from easel_operator.simulation.hpa.spec import MetricTarget, TargetType

MAX_COUNT: Final = 2**31 - 1


class MetricError(Exception):
    """A metric that gave no number of replicas."""


@dataclass(frozen=True, slots=True)
class PodReading:
    """One pod of the target, and what the custom metrics API says of it."""

    name: str
    phase: str = "Running"  # Pending, Running or Failed
    is_ready: bool = True
    is_deleted: bool = False
    values_milli: Mapping[str, int] = field(default_factory=dict)  # by metric; absent: none was reported


@dataclass(frozen=True, slots=True)
class Sight:
    """What the controller reads at one tick.

    ``pods`` serve Pods metrics, and are counted where ``ready_pods`` isn't given. An external metric that is None or
    absent couldn't be read.
    """

    spec_replicas: int
    status_replicas: int
    external_milli: Mapping[str, int | None] = field(default_factory=dict)
    pods: Sequence[PodReading] = ()
    ready_pods: int | None = None

    def count_ready(self) -> int:
        """Running, ready pods; those that are being deleted too. MetricError if there is no pod at all."""
        if self.ready_pods is not None:
            if self.ready_pods == 0 and self.status_replicas == 0:
                raise MetricError("no pods returned by selector while calculating replica count")
            return self.ready_pods
        if not self.pods:
            raise MetricError("no pods returned by selector while calculating replica count")
        return sum(pod.phase == "Running" and pod.is_ready for pod in self.pods)


@dataclass(frozen=True, slots=True)
class Tolerances:
    """Share of the target by which a metric may miss it without consequence."""

    down: float
    up: float

    def contain(self, ratio: float) -> bool:
        """Whether the ratio of value to target is near enough to 1; a ratio that is no number isn't."""
        return 1.0 - self.down <= ratio <= 1.0 + self.up


def propose(metric: MetricTarget, sight: Sight, tolerances: Tolerances) -> int:
    """The number of replicas that one metric asks for. MetricError if it can't be reported."""
    if metric.type is TargetType.PODS_AVERAGE_VALUE:
        return _propose_for_pods(metric, sight, tolerances)
    value = sight.external_milli.get(metric.name)
    if value is None:
        raise MetricError(f"unable to get external metric {metric.name}")
    if metric.type is TargetType.EXTERNAL_AVERAGE_VALUE:
        return _propose_for_average(value, metric.target_milli, sight.status_replicas, tolerances)
    return _propose_for_ratio(value / metric.target_milli, sight, tolerances)


def _propose_for_average(value: int, target: int, status_replicas: int, tolerances: Tolerances) -> int:
    ratio = value / (target * status_replicas) if status_replicas else math.inf
    if tolerances.contain(ratio):
        return status_replicas
    return min(math.ceil(value / target), MAX_COUNT)


def _propose_for_ratio(ratio: float, sight: Sight, tolerances: Tolerances) -> int:
    if sight.spec_replicas == 0:
        return math.ceil(ratio)
    if tolerances.contain(ratio):
        return sight.spec_replicas
    return min(math.ceil(ratio * sight.count_ready()), MAX_COUNT)


def _propose_for_pods(metric: MetricTarget, sight: Sight, tolerances: Tolerances) -> int:
    """Unready pods are only the Pending ones: readiness itself matters to CPU alone."""
    if not sight.pods:
        raise MetricError("no pods returned by selector while calculating replica count")
    counted = [pod for pod in sight.pods if not pod.is_deleted and pod.phase != "Failed"]
    unready = sum(pod.phase == "Pending" for pod in counted)
    running = [pod for pod in counted if pod.phase != "Pending"]
    values = [pod.values_milli[metric.name] for pod in running if metric.name in pod.values_milli]
    missing = len(running) - len(values)
    if not values:
        raise MetricError("did not receive metrics for targeted pods (pods might be unready)")
    ratio = _mean_ratio(values, metric.target_milli)
    counts_unready = unready > 0 and ratio > 1.0
    if not counts_unready and not missing:
        return sight.spec_replicas if tolerances.contain(ratio) else math.ceil(ratio * len(values))
    if ratio < 1.0:
        values += [metric.target_milli] * missing
    elif ratio > 1.0:
        values += [0] * missing
    if counts_unready:
        values += [0] * unready
    return _propose_again(ratio, values, metric.target_milli, sight.spec_replicas, tolerances)


def _propose_again(first_ratio: float, values: Sequence[int], target: int, current: int, tolerances: Tolerances) -> int:
    """With the pods that were filled in; never in the other direction than without them."""
    ratio = _mean_ratio(values, target)
    has_turned = (first_ratio < 1.0 < ratio) or (ratio < 1.0 < first_ratio)
    if tolerances.contain(ratio) or has_turned:
        return current
    replicas = math.ceil(ratio * len(values))
    is_contrary = (ratio < 1.0 and replicas > current) or (ratio > 1.0 and replicas < current)
    return current if is_contrary else replicas


def _mean_ratio(values: Sequence[int], target: int) -> float:
    return sum(values) // len(values) / target
