"""The HorizontalPodAutoscaler that turns the operator's proposals into workers, and that of the gateways.

Each signal is an External metric whose value is a number of pods; with AverageValue 1 the controller's answer is
ceil(value / 1): the proposal exactly, whatever number of pods is ready. It takes the largest.
https://kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale/#algorithm-details
"""

from typing import Final

from easel_contract import names
from easel_contract.resource import GatewayAutoscaling, ScalingSpec

from easel_operator.autoscaling.signals import SIGNALS
from easel_operator.manifests.metadata import ChildContext, build_metadata
from easel_operator.objects import Json

PERIOD_SECONDS: Final = 15


def build_hpa(context: ChildContext, scaling: ScalingSpec, *, is_tolerance_supported: bool) -> Json:
    """The worker Deployment's autoscaler.

    Args:
        context: the service and the installation.
        scaling: the bounds.
        is_tolerance_supported: whether this API server keeps ``behavior.*.tolerance`` (HPAConfigurableTolerance).
    """
    owner = context.owner
    selector = {"matchLabels": {names.LABEL_SERVICE: owner.name}}
    # The planner decides how fast and how long; the controller only carries it out, at once and without a dead band.
    rules: Json = {
        "stabilizationWindowSeconds": 0,
        "selectPolicy": "Max",
        "policies": [{"type": "Pods", "value": scaling.max_replicas, "periodSeconds": PERIOD_SECONDS}],
    }
    if is_tolerance_supported:
        rules["tolerance"] = "0"
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": build_metadata(owner, names.worker_name(owner.name), names.COMPONENT_WORKER),
        "spec": {
            "scaleTargetRef": {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "name": names.worker_name(owner.name),
            },
            "minReplicas": scaling.min_replicas,
            "maxReplicas": scaling.max_replicas,
            "metrics": [
                {
                    "type": "External",
                    "external": {
                        "metric": {"name": signal.metric, "selector": selector},
                        "target": {"type": "AverageValue", "averageValue": "1"},
                    },
                }
                for signal in SIGNALS
                if signal.is_in_hpa(scaling)
            ],
            "behavior": {"scaleUp": rules, "scaleDown": rules},
        },
    }


def build_gateway_hpa(context: ChildContext, autoscaling: GatewayAutoscaling) -> Json:
    """The gateway Deployment's autoscaler: by CPU, at the cluster's own pace."""
    owner, wire = context.owner, autoscaling.to_wire()
    name = names.gateway_name(owner.name)
    target = {"type": "AverageValue", "averageValue": wire["targetCpu"]}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": build_metadata(owner, name, names.COMPONENT_GATEWAY),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": autoscaling.min_replicas,
            "maxReplicas": autoscaling.max_replicas,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
        },
    }
