"""The conditions of a service: each a list of checks, the first that has something to say wins."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from easel_contract import names
from easel_contract.conditions import ConditionStatus, Reason

from easel_operator.autoscaling.signals import FLOOR
from easel_operator.decide.facts import ServiceFacts, find_problem, replicas_of
from easel_operator.decide.pod_status import PodStatus
from easel_operator.decide.scaling_mode import ScalingMode, is_scaling_disabled
from easel_operator.decide.snapshot import ApplyFailure
from easel_operator.manifests.gateway import service_url
from easel_operator.objects import Json, find_condition

# An autoscaler that is new asks before any pod has reported anything: no reason to raise an alarm.
FIRST_METRICS_AFTER: Final = timedelta(seconds=60)


@dataclass(frozen=True)
class ConditionState:
    """Status, reason and message of a condition."""

    status: ConditionStatus
    reason: Reason
    message: str


def yes(reason: Reason, message: str) -> ConditionState:
    """The condition holds."""
    return ConditionState(ConditionStatus.TRUE, reason, message)


def no(reason: Reason, message: str) -> ConditionState:
    """The condition doesn't hold."""
    return ConditionState(ConditionStatus.FALSE, reason, message)


def unknown(message: str) -> ConditionState:
    """Not known yet."""
    return ConditionState(ConditionStatus.UNKNOWN, Reason.PENDING, message)


def decide_ready(facts: ServiceFacts, failures: tuple[ApplyFailure, ...]) -> ConditionState:
    """Whether clients get images from the service's address."""
    if failures:
        return no(failures[0].reason, failures[0].message)
    return (
        _check_redis(facts)
        or _check_problems(facts)
        or _check_gateways(facts)
        or _check_workers(facts)
        or yes(Reason.AVAILABLE, f"The service answers at {service_url(facts.owner)}.")
    )


def _check_redis(facts: ServiceFacts) -> ConditionState | None:
    if facts.scrape.is_broker_up is not False:
        return None
    return no(
        Reason.REDIS_UNAVAILABLE,
        "No pod of the service reaches Redis, so no request can be queued. Check that Redis runs, and "
        f"that the address in Secret {facts.owner.namespace}/{facts.owner.name}-redis (set at installation) is right.",
    )


def _check_problems(facts: ServiceFacts) -> ConditionState | None:
    problem = find_problem(facts.workers) or find_problem(facts.gateways)
    return no(problem.reason, problem.message) if problem else None


def _check_gateways(facts: ServiceFacts) -> ConditionState | None:
    if any(gateway.is_ready for gateway in facts.gateways):
        return None
    wanted = facts.spec.gateway.replicas
    return no(
        Reason.GATEWAY_UNAVAILABLE,
        f"None of {wanted} gateway pods is ready{_why_not_placed(facts.gateways)}.",
    )


def _check_workers(facts: ServiceFacts) -> ConditionState | None:
    if facts.ready_workers > 0:
        return None
    wanted = facts.wanted_workers
    if wanted == 0 and facts.mode.mode is ScalingMode.FIXED:
        return no(
            Reason.WORKERS_UNAVAILABLE,
            "spec.replicas is 0, so nothing makes images; set it to 1 or more, or use spec.scaling instead.",
        )
    if wanted == 0 and facts.mode.mode is ScalingMode.RECOMMEND:
        name = names.worker_name(facts.owner.name)
        return no(
            Reason.WORKERS_UNAVAILABLE,
            f"Deployment {name} has 0 replicas and spec.scaling.mode is Recommend, so nothing makes images; set "
            f"them with kubectl scale deployment {name}, or let spec.scaling.mode be Automatic.",
        )
    # While the first worker wakes, requests wait in the queue: the service keeps its promise.
    is_waking = facts.was_scaled_to_zero and not facts.unschedulable_workers
    if wanted == 0 or (is_waking and wanted is not None):
        return yes(
            Reason.SCALED_TO_ZERO,
            "No worker runs while there is no work; the next request starts one and waits in the queue for it.",
        )
    return no(
        Reason.WORKERS_UNAVAILABLE,
        f"None of {wanted if wanted is not None else 'the'} worker pods is ready{_why_not_placed(facts.workers)}.",
    )


def _why_not_placed(pods: tuple[PodStatus, ...]) -> str:
    messages = sorted(pod.unschedulable_message for pod in pods if pod.unschedulable_message is not None)
    return f": no node takes them ({messages[0]})" if messages else ""


def decide_model_loaded(facts: ServiceFacts) -> ConditionState:
    """Whether some worker holds the model, and none has failed to load it."""
    problem = find_problem(facts.workers)
    if problem is not None:
        return no(problem.reason, problem.message)
    if facts.ready_workers > 0:
        return yes(Reason.LOADED, "Every ready worker holds the model.")
    if facts.workers:
        return no(Reason.LOADING, "The workers are being placed, or are fetching and loading the model.")
    if facts.wanted_workers == 0:
        return no(Reason.SCALED_TO_ZERO, "No worker runs, so none holds the model.")
    return unknown("No worker pod exists yet.")


def decide_progressing(facts: ServiceFacts, failures: tuple[ApplyFailure, ...]) -> ConditionState:
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
    moving = [
        str(deployment["metadata"]["name"])
        for deployment in deployments
        if deployment is not None and not is_settled(deployment)
    ]
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


def decide_scaling_active(facts: ServiceFacts) -> ConditionState:
    """Whether the number of workers follows the work, and by whose hand."""
    scaling = facts.spec.scaling
    if facts.mode.mode is ScalingMode.FIXED or scaling is None:
        return no(
            Reason.FIXED_REPLICAS, "spec.replicas fixes the number of workers; set spec.scaling to let it follow."
        )
    if facts.mode.mode is ScalingMode.RECOMMEND:
        return no(
            Reason.RECOMMENDING,
            "spec.scaling.mode is Recommend: decisions are reported in status.scaling and in events, and the number of "
            f"workers stays what it is; set it with kubectl scale deployment {names.worker_name(facts.owner.name)}.",
        )
    if facts.scrape.is_data_missing:
        return no(
            Reason.METRICS_UNAVAILABLE,
            "No pod of the service has reported the queue's depth for a while, so the number of workers is held. Check "
            "that gateway pods are ready, and that the operator may reach port http of the service's pods.",
        )
    if facts.mode.mode is ScalingMode.DIRECT:
        return yes(
            Reason.DIRECT_SCALING,
            f"The operator itself scales the workers between {scaling.min_replicas} and {scaling.max_replicas}: "
            f"{facts.mode.explanation}.",
        )
    return _judge_hpa(facts.autoscaler, scaling.min_replicas, scaling.max_replicas, facts.now)


def _judge_hpa(autoscaler: Json | None, lowest: int, highest: int, now: datetime) -> ConditionState:
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


def decide_capacity_available(facts: ServiceFacts) -> ConditionState:
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
