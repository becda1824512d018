"""The conditions Progressing, ScalingActive and CapacityAvailable."""

from datetime import datetime, timedelta
from typing import Final

from easel_contract import names
from easel_contract.conditions import Reason

from easel_operator.autoscaling.signals import FLOOR
from easel_operator.decide.facts import ServiceFacts, replicas_of
from easel_operator.decide.scaling_mode import ScalingMode, is_scaling_disabled
from easel_operator.decide.snapshot import ApplyFailure
from easel_operator.decide.verdict import Verdict, no, unknown, yes
from easel_operator.objects import Json, find_condition

# An autoscaler that is new asks before any pod has told anything: no reason to raise an alarm.
FIRST_METRICS_AFTER: Final = timedelta(seconds=60)


def decide_progressing(facts: ServiceFacts, failures: tuple[ApplyFailure, ...]) -> Verdict:
    """Whether the pods are moving towards the spec."""
    if failures:
        return no(failures[0].reason, failures[0].message)
    deployments = (facts.gateway_deployment, facts.worker_deployment)
    for deployment in deployments:
        late = find_condition(deployment, "Progressing") if deployment else None
        if deployment and late and late["status"] == "False" and late.get("reason") == Reason.DEADLINE_EXCEEDED:
            name = deployment["metadata"]["name"]
            return no(
                Reason.DEADLINE_EXCEEDED,
                f"Deployment {name} hasn't finished in time: {late.get('message', '')} "
                f"See the condition Ready, and kubectl describe deployment {name}.",
            )
    moving = [_name(deployment) for deployment in deployments if deployment is not None and not is_settled(deployment)]
    if moving or None in deployments:
        return yes(Reason.ROLLING_OUT, f"Pods are being replaced or started: {', '.join(moving) or 'all'}.")
    return no(Reason.COMPLETE, "All pods are those that the spec asks for.")


def is_settled(deployment: Json) -> bool:
    """Whether all pods are there, of the current template and available."""
    status: Json = deployment.get("status", {})
    generation: int = deployment["metadata"].get("generation", 0)
    wanted = replicas_of(deployment)
    counts = [status.get(name, 0) for name in ("updatedReplicas", "replicas", "availableReplicas")]
    return bool(status.get("observedGeneration", 0) >= generation) and all(count == wanted for count in counts)


def decide_scaling_active(facts: ServiceFacts) -> Verdict:
    """Whether the number of workers follows the work, and by whose hand."""
    scaling = facts.spec.scaling
    if facts.mode.mode is ScalingMode.FIXED or scaling is None:
        return no(
            Reason.FIXED_REPLICAS, "spec.replicas fixes the number of workers; set spec.scaling to let it follow."
        )
    if facts.mode.mode is ScalingMode.RECOMMEND:
        return no(
            Reason.RECOMMENDING,
            "spec.scaling.mode is Recommend: decisions are told in status.scaling and in events, and the number of "
            f"workers stays what it is; set it with kubectl scale deployment {names.worker_name(facts.owner.name)}.",
        )
    if facts.scrape.is_data_missing:
        return no(
            Reason.METRICS_UNAVAILABLE,
            "No pod of the service has told the queue's depth for a while, so the number of workers is held. Check "
            "that gateway pods are ready, and that the operator may reach port http of the service's pods.",
        )
    if facts.mode.mode is ScalingMode.DIRECT:
        return yes(
            Reason.DIRECT_SCALING,
            f"The operator itself scales the workers between {scaling.min_replicas} and {scaling.max_replicas}: "
            f"{facts.mode.explanation}.",
        )
    return _judge_autoscaler(facts.autoscaler, scaling.min_replicas, scaling.max_replicas, facts.now)


def _judge_autoscaler(autoscaler: Json | None, lowest: int, highest: int, now: datetime) -> Verdict:
    active = find_condition(autoscaler, "ScalingActive") if autoscaler is not None else None
    if autoscaler is None or active is None:
        return unknown("The HorizontalPodAutoscaler hasn't been looked at by its controller yet.")
    name = autoscaler["metadata"]["name"]
    if active["status"] == "True" or is_scaling_disabled(autoscaler):
        return yes(
            Reason.FOLLOWING_DEMAND,
            f"HorizontalPodAutoscaler {name} follows the queue and the latency between {lowest} and {highest} workers.",
        )
    created_at = datetime.fromisoformat(autoscaler["metadata"]["creationTimestamp"])
    if now - created_at < FIRST_METRICS_AFTER:
        return unknown("The first metrics are on their way: no pod has answered yet.")
    return no(
        Reason.METRICS_UNAVAILABLE,
        f"HorizontalPodAutoscaler {name} can't read {FLOOR.metric}: "
        f"{active.get('message') or active.get('reason')}. The number of workers is held; see "
        "kubectl get apiservice v1beta1.external.metrics.k8s.io and the operator's log.",
    )


def decide_capacity_available(facts: ServiceFacts) -> Verdict:
    """Whether the cluster has room for the workers that are wanted."""
    stuck = facts.unschedulable_workers
    if stuck:
        gpu = facts.spec.worker.gpu
        need = f"{gpu.count} {gpu.resource_name}" if gpu.count else "the requested CPU and memory"
        return no(
            Reason.INSUFFICIENT_CAPACITY,
            f"{len(stuck)} of {len(facts.workers)} worker pods have no node: "
            f"{min(str(pod.unschedulable_message) for pod in stuck)} "
            f"Add nodes with {need} free, or lower {_limit_field(facts)}.",
        )
    refused = find_condition(facts.worker_deployment, "ReplicaFailure") if facts.worker_deployment else None
    if refused is not None and refused["status"] == "True":
        return no(
            Reason.INSUFFICIENT_CAPACITY,
            f"Worker pods can't be created: {refused.get('message', '')}. Raise the namespace's ResourceQuota, "
            f"or lower {_limit_field(facts)}.",
        )
    return yes(Reason.SUFFICIENT, "Every worker pod that is wanted has a node.")


def _limit_field(facts: ServiceFacts) -> str:
    if facts.mode.mode is ScalingMode.RECOMMEND:
        return f"the replicas of Deployment {names.worker_name(facts.owner.name)}"
    return "spec.replicas" if facts.mode.mode is ScalingMode.FIXED else "spec.scaling.maxReplicas"


def _name(deployment: Json) -> str:
    return str(deployment["metadata"]["name"])
