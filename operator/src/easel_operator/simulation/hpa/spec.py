"""What the HorizontalPodAutoscaler controller is given: the autoscaling/v2 object's spec and the controller's flags.

Values of metrics are integers in thousandths, as the controller keeps them. Defaults are the API server's
(pkg/apis/autoscaling/v2/defaults.go): they fill ``behavior`` only where the object has one.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any, Final, Self

DEFAULT_PERIOD_SECONDS: Final = 15.0
DEFAULT_TOLERANCE: Final = 0.1
DEFAULT_DOWNSCALE_STABILIZATION_SECONDS: Final = 300.0

_SUFFIXES: Final = {"m": Decimal("0.001"), "k": Decimal(1000), "M": Decimal(10**6), "G": Decimal(10**9)}


class TargetType(StrEnum):
    """How a metric is compared with its target."""

    EXTERNAL_VALUE = "Value"
    EXTERNAL_AVERAGE_VALUE = "AverageValue"
    PODS_AVERAGE_VALUE = "PodsAverageValue"


class Select(StrEnum):
    """Which of several rate policies holds."""

    MAX = "Max"
    MIN = "Min"
    DISABLED = "Disabled"


@dataclass(frozen=True, slots=True)
class MetricTarget:
    """One entry of spec.metrics."""

    name: str
    type: TargetType
    target_milli: int


@dataclass(frozen=True, slots=True)
class RatePolicy:
    """How many pods, or percent of them, may be added or removed within a period."""

    type: str  # Pods or Percent
    value: int
    period_seconds: int


@dataclass(frozen=True, slots=True)
class Rules:
    """One direction of ``behavior``. None: the controller's flag decides."""

    policies: tuple[RatePolicy, ...]
    select: Select = Select.MAX
    stabilization_seconds: float | None = None
    tolerance: float | None = None


DEFAULT_UP: Final = Rules((RatePolicy("Pods", 4, 15), RatePolicy("Percent", 100, 15)), stabilization_seconds=0.0)
DEFAULT_DOWN: Final = Rules((RatePolicy("Percent", 100, 15),))


@dataclass(frozen=True, slots=True)
class Behavior:
    """Rates, windows and tolerances of both directions."""

    up: Rules = DEFAULT_UP
    down: Rules = DEFAULT_DOWN


@dataclass(frozen=True, slots=True)
class AutoscalerSpec:
    """The spec of an autoscaling/v2 HorizontalPodAutoscaler; External and Pods metrics only."""

    min_replicas: int
    max_replicas: int
    metrics: tuple[MetricTarget, ...]
    behavior: Behavior | None = None

    @property
    def has_external_metric(self) -> bool:
        """Whether it may scale to and from zero."""
        return any(metric.type is not TargetType.PODS_AVERAGE_VALUE for metric in self.metrics)

    @classmethod
    def from_manifest(cls, spec: Mapping[str, Any]) -> Self:
        """From the ``spec`` of a manifest, with the API server's defaults. ValueError on what isn't emulated."""
        behavior = spec.get("behavior")
        return cls(
            min_replicas=spec.get("minReplicas", 1),
            max_replicas=spec["maxReplicas"],
            metrics=tuple(_read_metric(metric) for metric in spec["metrics"]),
            behavior=None
            if behavior is None
            else Behavior(
                _read_rules(behavior.get("scaleUp"), DEFAULT_UP), _read_rules(behavior.get("scaleDown"), DEFAULT_DOWN)
            ),
        )


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """Flags and feature gates of kube-controller-manager."""

    period_seconds: float = DEFAULT_PERIOD_SECONDS
    tolerance: float = DEFAULT_TOLERANCE
    downscale_stabilization_seconds: float = DEFAULT_DOWNSCALE_STABILIZATION_SECONDS
    is_scale_to_zero_enabled: bool = True  # HPAScaleToZero: on by default from 1.37
    is_tolerance_configurable: bool = True  # HPAConfigurableTolerance: on by default from 1.35

    @classmethod
    def of_release(cls, minor: int) -> Self:
        """The defaults of Kubernetes 1.``minor``."""
        return cls(is_scale_to_zero_enabled=minor >= 37, is_tolerance_configurable=minor >= 35)


def parse_milli(quantity: str | int | float) -> int:
    """A Kubernetes quantity in thousandths, rounded up as the API server does. ValueError if it is none."""
    text = str(quantity).strip()
    factor = _SUFFIXES.get(text[-1:], None)
    try:
        number = Decimal(text[:-1]) * factor if factor is not None else Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{quantity!r} is not a quantity such as 1, 0.5 or 500m") from None
    return math.ceil(number * 1000)


def _read_metric(metric: Mapping[str, Any]) -> MetricTarget:
    kind = metric["type"]
    if kind == "External":
        source = metric["external"]
        target = source["target"]
        type_ = TargetType(target["type"])
        field = "value" if type_ is TargetType.EXTERNAL_VALUE else "averageValue"
    elif kind == "Pods":
        source = metric["pods"]
        target, type_, field = source["target"], TargetType.PODS_AVERAGE_VALUE, "averageValue"
    else:
        raise ValueError(f"metrics of type {kind!r} are not emulated; External and Pods are")
    return MetricTarget(source["metric"]["name"], type_, parse_milli(target[field]))


def _read_rules(rules: Mapping[str, Any] | None, default: Rules) -> Rules:
    if rules is None:
        return default
    policies = rules.get("policies")
    tolerance = rules.get("tolerance")
    return Rules(
        policies=default.policies
        if policies is None
        else tuple(RatePolicy(policy["type"], policy["value"], policy["periodSeconds"]) for policy in policies),
        select=Select(rules.get("selectPolicy", default.select)),
        stabilization_seconds=rules.get("stabilizationWindowSeconds", default.stabilization_seconds),
        tolerance=None if tolerance is None else parse_milli(tolerance) / 1000,
    )
