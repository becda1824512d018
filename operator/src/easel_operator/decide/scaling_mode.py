"""Who writes the number of workers: the user, the cluster's autoscaler, or the operator itself."""

from dataclasses import dataclass
from enum import StrEnum

from easel_contract.resource import ExecutionMode, StableDiffusionServiceSpec

from easel_operator.decide.snapshot import Capabilities
from easel_operator.objects import Json, find_condition


class ScalingMode(StrEnum):
    """Who writes the worker Deployment's replicas."""

    FIXED = "Fixed"  # the user, in spec.replicas
    AUTOSCALER = "Autoscaler"  # the cluster's HPA controller, from the metrics that the operator publishes
    RECOMMEND = "Recommend"  # the user, on the Deployment; decisions are only reported
    DIRECT = "Direct"  # the operator, through the scale subresource, where an autoscaler can't


@dataclass(frozen=True)
class ModeDecision:
    """The mode, and for DIRECT the reason in words."""

    mode: ScalingMode
    explanation: str = ""


def decide_mode(spec: StableDiffusionServiceSpec, capabilities: Capabilities) -> ModeDecision:
    """Prefer the cluster's own autoscaler; write the scale directly only where it can't do the work."""
    if spec.scaling is None:
        return ModeDecision(ScalingMode.FIXED)
    if spec.scaling.mode is ExecutionMode.RECOMMEND:
        return ModeDecision(ScalingMode.RECOMMEND)
    if not capabilities.is_metrics_api_ours:
        return ModeDecision(ScalingMode.DIRECT, capabilities.metrics_api_note)
    if spec.scaling.min_replicas == 0 and not capabilities.is_scale_to_zero_supported:
        return ModeDecision(
            ScalingMode.DIRECT,
            "this API server refuses a HorizontalPodAutoscaler with minReplicas 0 (feature gate HPAScaleToZero)",
        )
    return ModeDecision(ScalingMode.AUTOSCALER)


def decide_scale(mode: ScalingMode, deployment: Json, autoscaler: Json | None, desired_replicas: int) -> int | None:
    """The number of replicas that the operator itself must write now; None to leave it to others.

    Beside an autoscaler the operator writes only to wake a Deployment that was brought to 0 by another hand: the HPA
    controller doesn't scale those (condition ScalingActive=False, reason ScalingDisabled).
    """
    current = deployment.get("spec", {}).get("replicas", 1)
    if current == desired_replicas or mode in (ScalingMode.FIXED, ScalingMode.RECOMMEND):
        return None
    if mode is ScalingMode.DIRECT:
        return desired_replicas
    is_asleep = current == 0 and autoscaler is not None and is_scaling_disabled(autoscaler)
    return desired_replicas if is_asleep else None


def is_scaling_disabled(autoscaler: Json) -> bool:
    """Whether the HPA controller stands aside because somebody set the target to 0."""
    condition = find_condition(autoscaler, "ScalingActive")
    return condition is not None and condition["status"] == "False" and condition.get("reason") == "ScalingDisabled"
