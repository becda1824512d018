"""What becomes of a proposal: stabilization windows and rates (pkg/controller/podautoscaler/horizontal.go).

Without ``behavior`` older rules hold: a window for scaling down only, and at most twice the replicas, or four, at once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from easel_operator.simulation.hpa.spec import AutoscalerSpec, RatePolicy, Rules, Select

UP_FACTOR_WITHOUT_BEHAVIOR: Final = 2
UP_MINIMUM_WITHOUT_BEHAVIOR: Final = 4


@dataclass(frozen=True, slots=True)
class Stamp:
    """A number of replicas, or of replicas changed, and when."""

    count: int
    at_seconds: float


@dataclass(frozen=True, slots=True)
class Limit:
    """The number that is allowed, and the reason in the condition ScalingLimited."""

    replicas: int
    reason: str


def stabilize_down(proposed: int, stamps: Sequence[Stamp], now: float, window_seconds: float) -> int:
    """Without behavior: the largest proposal of the window."""
    cutoff = now - window_seconds
    return max(proposed, max((stamp.count for stamp in stamps if stamp.at_seconds >= cutoff), default=proposed))


def stabilize(
    proposed: int, current: int, stamps: Sequence[Stamp], now: float, up_seconds: float, down_seconds: float
) -> int:
    """With behavior: the current number, moved into the band of proposals that both windows hold."""
    up, down = proposed, proposed
    up_cutoff, down_cutoff = now - up_seconds, now - down_seconds
    for stamp in stamps:
        if stamp.at_seconds > up_cutoff:
            up = min(up, stamp.count)
        if stamp.at_seconds > down_cutoff:
            down = max(down, stamp.count)
    return min(max(current, up), down)


def limit_without_behavior(desired: int, current: int, spec: AutoscalerSpec) -> Limit:
    """At most twice the replicas, or four; between minimum and maximum."""
    up_limit = max(UP_FACTOR_WITHOUT_BEHAVIOR * current, UP_MINIMUM_WITHOUT_BEHAVIOR)
    if desired < spec.min_replicas:
        return Limit(spec.min_replicas, "TooFewReplicas")
    if spec.max_replicas > up_limit:
        highest = Limit(up_limit, "ScaleUpLimit")
    else:
        highest = Limit(spec.max_replicas, "TooManyReplicas")
    return highest if desired > highest.replicas else Limit(desired, "DesiredWithinRange")


def limit_with_behavior(
    desired: int,
    current: int,
    spec: AutoscalerSpec,
    rules: Rules,
    ups: Sequence[Stamp],
    downs: Sequence[Stamp],
    now: float,
) -> Limit:
    """``rules`` are those of the direction that ``desired`` lies in. A move the other way is never forced."""
    if desired > current:
        allowed = max(_up_limit(current, rules, ups, downs, now), current)
        if spec.max_replicas > allowed:
            highest = Limit(allowed, "ScaleUpLimit")
        else:
            highest = Limit(spec.max_replicas, "TooManyReplicas")
        if desired > highest.replicas:
            return highest
    elif desired < current:
        allowed = min(_down_limit(current, rules, ups, downs, now), current)
        if spec.min_replicas < allowed:
            lowest = Limit(allowed, "ScaleDownLimit")
        else:
            lowest = Limit(spec.min_replicas, "TooFewReplicas")
        if desired < lowest.replicas:
            return lowest
    return Limit(desired, "DesiredWithinRange")


def longest_period_seconds(rules: Rules) -> int:
    """How long a change of replicas matters to any policy."""
    return max((policy.period_seconds for policy in rules.policies), default=0)


def _up_limit(current: int, rules: Rules, ups: Sequence[Stamp], downs: Sequence[Stamp], now: float) -> int:
    if rules.select is Select.DISABLED:
        return current
    limits = []
    for policy in rules.policies:
        begun_with = _replicas_at_period_start(policy, current, ups, downs, now)
        if policy.type == "Pods":
            limits.append(begun_with + policy.value)
        else:
            limits.append(math.ceil(begun_with * (1 + policy.value / 100)))
    return min(limits) if rules.select is Select.MIN else max(limits)


def _down_limit(current: int, rules: Rules, ups: Sequence[Stamp], downs: Sequence[Stamp], now: float) -> int:
    if rules.select is Select.DISABLED:
        return current
    limits = []
    for policy in rules.policies:
        begun_with = _replicas_at_period_start(policy, current, ups, downs, now)
        if policy.type == "Pods":
            limits.append(begun_with - policy.value)
        else:
            limits.append(int(begun_with * (1 - policy.value / 100)))
    return max(limits) if rules.select is Select.MIN else min(limits)


def _replicas_at_period_start(
    policy: RatePolicy, current: int, ups: Sequence[Stamp], downs: Sequence[Stamp], now: float
) -> int:
    cutoff = now - policy.period_seconds
    added = sum(stamp.count for stamp in ups if stamp.at_seconds > cutoff)
    removed = sum(stamp.count for stamp in downs if stamp.at_seconds > cutoff)
    return current - added + removed
