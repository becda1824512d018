"""Whether pods follow the spec, and their number the work."""

from datetime import datetime, timedelta
from typing import Final

from easel_contract import names
from easel_contract.conditions import ConditionStatus, Reason

from easel_operator.autoscaling.signals import FLOOR
from easel_operator.decide.conditions import ConditionState, no, unknown, yes
from easel_operator.decide.conditions.pods import find_cause, find_newest, say_who_serves
from easel_operator.decide.facts import ServiceFacts, replicas_of
from easel_operator.decide.scaling_mode import ScalingMode, is_scaling_disabled
from easel_operator.decide.snapshot import ApplyFailure
from easel_operator.objects import Json, find_condition

# An autoscaler that is new asks before any pod has reported anything: no reason to raise an alarm.
FIRST_METRICS_AFTER: Final = timedelta(seconds=60)

# The Deployment controller's word, from when the newest template's pods are all available until the template changes.
DEPLOYMENT_COMPLETE: Final = "NewReplicaSetAvailable"


def decide_progressing(facts: ServiceFacts, failures: tuple[ApplyFailure, ...]) -> ConditionState:
    """Whether the pods follow the spec or already do, as a Deployment's condition of this name; False: they can't.

    As there, pods that come and go later by the work, or by a crash, are no roll-out: what is complete stays so until
    the spec or the release changes.
    """
    if failures:
        return no(failures[0].reason, failures[0].message)
    deployments = [each for each in (facts.gateway_deployment, facts.worker_deployment) if each is not None]
    moving = [str(each["metadata"]["name"]) for each in deployments if not is_settled(each)]
    if facts.is_rolled_out and (facts.was_complete or not moving):
        return yes(Reason.COMPLETE, "All pods are those that the spec asks for.")
    if facts.spec.rollout.paused and not facts.is_rolled_out:
        return yes(Reason.PAUSED, _say_paused(facts))
    return (
        _check_newest_pods(facts)
        or _check_deadlines(deployments)
        or (yes(Reason.ROLLING_OUT, facts.model_fetch.message) if facts.model_fetch is not None else None)
        or yes(Reason.ROLLING_OUT, f"Pods are being replaced or started: {', '.join(moving) or 'all'}.")
    )


def _say_paused(facts: ServiceFacts) -> str:
    wanted = facts.wanted_revisions.get(names.COMPONENT_WORKER)
    earlier = sum(pod.revision != wanted for pod in facts.workers)
    return (
        f"{earlier} of {len(facts.workers)} workers are of an earlier revision and stay, as spec.rollout.paused is "
        "set; requests for a model that only the newest one has wait."
    )


def _check_newest_pods(facts: ServiceFacts) -> ConditionState | None:
    """What keeps the newest spec's pods from starting; the trouble of earlier ones ends with them."""
    for component in (names.COMPONENT_WORKER, names.COMPONENT_GATEWAY):
        trouble = find_cause(facts, component, ())
        if trouble is None or (trouble.reason is not Reason.REFERENCE_MISSING and not find_newest(facts, component)):
            continue
        if facts.earlier_ready_pods(component):
            return no(trouble.reason, say_who_serves(facts, component, trouble)[1])
        return trouble
    return None


def _check_deadlines(deployments: list[Json]) -> ConditionState | None:
    for deployment in deployments:
        late = find_condition(deployment, "Progressing")
        if late and late["status"] == "False" and late.get("reason") == Reason.DEADLINE_EXCEEDED:
            name = deployment["metadata"]["name"]
            return no(
                Reason.DEADLINE_EXCEEDED,
                f"Deployment {name} hasn't finished in time: {late.get('message', '')} "
                f"See the condition Ready, and kubectl describe deployment {name}.",
            )
    return None


def decide_reconciling(progressing: ConditionState) -> ConditionState:
    """kstatus' word for a roll-out that is under way; it is read before Ready."""
    if progressing.status is ConditionStatus.TRUE and progressing.reason is not Reason.COMPLETE:
        return progressing
    return no(progressing.reason, "No roll-out is under way.")


def decide_stalled(progressing: ConditionState) -> ConditionState:
    """kstatus' word for a roll-out that needs somebody to act."""
    if progressing.status is ConditionStatus.FALSE:
        return yes(progressing.reason, progressing.message)
    return no(progressing.reason, "Nothing keeps the pods from following the spec.")


def is_settled(deployment: Json) -> bool:
    """Whether all pods are there, of the current template and available; or were, and only their number has changed."""
    status: Json = deployment.get("status", {})
    progress = find_condition(deployment, "Progressing")
    was_settled = progress is not None and progress.get("reason") == DEPLOYMENT_COMPLETE
    generation: int = deployment["metadata"].get("generation", 0)
    wanted = replicas_of(deployment)
    counts = [status.get(name, 0) for name in ("updatedReplicas", "replicas", "availableReplicas")]
    is_observed = bool(status.get("observedGeneration", 0) >= generation)
    return is_observed and (was_settled or all(count == wanted for count in counts))


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
            "that gateway pods are ready, and that the operator may reach port metrics of the service's pods.",
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
