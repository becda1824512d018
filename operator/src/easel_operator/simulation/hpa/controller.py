"""One tick of the HorizontalPodAutoscaler controller: what it reads in, the new number of replicas out.

The order of its branches (reconcileAutoscaler in pkg/controller/podautoscaler/horizontal.go, 1.33 to 1.37):

replicas 0     asleep, unless the controller itself brought it there (condition ScaledToZero, gate HPAScaleToZero)
above maximum  to the maximum, whatever the metrics say
below minimum  to the minimum, whatever the metrics say
else           the largest proposal of all metrics, then windows, then rates; if a metric can't be read, never down
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from easel_operator.simulation.hpa.limits import (
    Limit,
    Stamp,
    limit_with_behavior,
    limit_without_behavior,
    longest_period_seconds,
    stabilize,
    stabilize_down,
)
from easel_operator.simulation.hpa.proposals import MetricError, Sight, Tolerances, propose
from easel_operator.simulation.hpa.spec import AutoscalerSpec, Behavior, ControllerSettings

FAILED: Final = "FailedGetMetric"


@dataclass(frozen=True, slots=True)
class Memory:
    """What the controller remembers of one autoscaler. None: it never saw it."""

    proposals: tuple[Stamp, ...] | None = None
    ups: tuple[Stamp, ...] = ()
    downs: tuple[Stamp, ...] = ()
    is_scaled_to_zero: bool = False  # the condition ScaledToZero


@dataclass(frozen=True, slots=True)
class Decision:
    """One tick's outcome. ``replicas`` equals the number at hand where it doesn't scale."""

    replicas: int
    reason: str
    memory: Memory
    limited_by: str | None = None  # reason of ScalingLimited, where the metrics were asked
    error: str | None = None  # the first metric that couldn't be read


def step(spec: AutoscalerSpec, sight: Sight, memory: Memory, settings: ControllerSettings, now: float) -> Decision:
    """One tick at ``now`` (seconds on any clock that only grows)."""
    current = sight.spec_replicas
    if memory.proposals is None:
        memory = replace(memory, proposals=(Stamp(current, now),))
    was_scaled_to_zero = settings.is_scale_to_zero_enabled and memory.is_scaled_to_zero
    if current == 0 and not (was_scaled_to_zero and (spec.min_replicas != 0 or spec.has_external_metric)):
        return Decision(0, "ScalingDisabled", memory)
    if current > spec.max_replicas:
        return _rescale(spec, current, Decision(spec.max_replicas, "AboveMaximum", memory), settings, now)
    if 0 < current < spec.min_replicas:
        return _rescale(spec, current, Decision(spec.min_replicas, "BelowMinimum", memory), settings, now)
    decision = _follow_metrics(spec, sight, memory, settings, now)
    if current == 0 and decision.reason != FAILED and decision.replicas < spec.min_replicas:
        decision = replace(decision, replicas=spec.min_replicas, reason="BelowMinimum")
    return _rescale(spec, current, decision, settings, now)


def _follow_metrics(
    spec: AutoscalerSpec, sight: Sight, memory: Memory, settings: ControllerSettings, now: float
) -> Decision:
    current = sight.spec_replicas
    tolerances = _choose_tolerances(spec.behavior, settings)
    proposed, errors = 0, []
    for metric in spec.metrics:
        try:
            proposed = max(proposed, propose(metric, sight, tolerances))
        except MetricError as error:
            errors.append(str(error))
    first_error = errors[0] if errors else None
    if len(errors) >= len(spec.metrics) or (errors and proposed < current):
        return Decision(current, FAILED, memory, error=first_error)
    if spec.behavior is None:
        window = settings.downscale_stabilization_seconds
        desired = stabilize_down(proposed, memory.proposals or (), now, window)
        limit = limit_without_behavior(desired, current, spec)
        kept = _keep(memory.proposals or (), now - window)
    else:
        limit, longest = _normalize(spec, spec.behavior, current, proposed, memory, settings, now)
        kept = _keep(memory.proposals or (), now - longest)
    memory = replace(memory, proposals=(*kept, Stamp(proposed, now)))
    return Decision(limit.replicas, "ValidMetricFound", memory, limited_by=limit.reason, error=first_error)


def _normalize(
    spec: AutoscalerSpec,
    behavior: Behavior,
    current: int,
    proposed: int,
    memory: Memory,
    settings: ControllerSettings,
    now: float,
) -> tuple[Limit, float]:
    """The limit, and how long proposals are remembered."""
    up_seconds, down_seconds = behavior.up.stabilization_seconds, behavior.down.stabilization_seconds
    up_seconds = 0.0 if up_seconds is None else up_seconds
    down_seconds = settings.downscale_stabilization_seconds if down_seconds is None else down_seconds
    desired = stabilize(proposed, current, memory.proposals or (), now, up_seconds, down_seconds)
    rules = behavior.up if desired > current else behavior.down
    limit = limit_with_behavior(desired, current, spec, rules, memory.ups, memory.downs, now)
    return limit, max(up_seconds, down_seconds)


def _rescale(
    spec: AutoscalerSpec, current: int, decision: Decision, settings: ControllerSettings, now: float
) -> Decision:
    """The decision, with the change remembered for the rates and for the way back from zero."""
    change = decision.replicas - current
    if change == 0:
        return decision
    memory = decision.memory
    if spec.behavior is not None and change > 0:
        kept = _keep(memory.ups, now - longest_period_seconds(spec.behavior.up))
        memory = replace(memory, ups=(*kept, Stamp(change, now)))
    elif spec.behavior is not None:
        kept = _keep(memory.downs, now - longest_period_seconds(spec.behavior.down))
        memory = replace(memory, downs=(*kept, Stamp(-change, now)))
    is_zeroed = settings.is_scale_to_zero_enabled and decision.replicas == 0 and spec.has_external_metric
    return replace(decision, memory=replace(memory, is_scaled_to_zero=is_zeroed))


def _choose_tolerances(behavior: Behavior | None, settings: ControllerSettings) -> Tolerances:
    down = up = settings.tolerance
    if behavior is not None and settings.is_tolerance_configurable:
        down = behavior.down.tolerance if behavior.down.tolerance is not None else down
        up = behavior.up.tolerance if behavior.up.tolerance is not None else up
    return Tolerances(down, up)


def _keep(stamps: Sequence[Stamp], cutoff: float) -> tuple[Stamp, ...]:
    """Those that a window or period can still look back on."""
    return tuple(stamp for stamp in stamps if stamp.at_seconds >= cutoff)
