"""The conditions of a service: each a list of checks, the first that has something to say wins."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from easel_contract import names
from easel_contract.conditions import ConditionStatus, Reason

from easel_operator.autoscaling.signals import FLOOR
from easel_operator.decide.facts import ServiceFacts, find_eviction, find_problem, replicas_of
from easel_operator.decide.placement import PodNeeds, explain_refused, explain_unschedulable, quote
from easel_operator.decide.pod_status import PodStatus, StartPhase
from easel_operator.decide.scaling_mode import ScalingMode, is_scaling_disabled
from easel_operator.decide.snapshot import ApplyFailure
from easel_operator.manifests.exposure import service_url
from easel_operator.manifests.worker import build_worker_pod_selector_text, describe_model
from easel_operator.objects import Json, find_condition

# An autoscaler that is new asks before any pod has reported anything: no reason to raise an alarm.
FIRST_METRICS_AFTER: Final = timedelta(seconds=60)

# The Deployment controller's word, from when the newest template's pods are all available until the template changes.
DEPLOYMENT_COMPLETE: Final = "NewReplicaSetAvailable"


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
    """Whether clients get images from the service's address. What ails pods beside those that serve is said in it, and
    doesn't make it false."""
    return (
        _check_redis(facts)
        or _check_address(failures)
        or _check_guards(facts)
        or _check_gateways(facts, failures)
        or _check_workers(facts, failures)
        or _check_trouble_beside(facts, failures)
        or _check_asleep(facts)
        or yes(Reason.AVAILABLE, f"The service answers at {service_url(facts.owner)}.")
    )


def _check_redis(facts: ServiceFacts) -> ConditionState | None:
    if facts.scrape.is_redis_evicting:
        return no(
            Reason.REDIS_EVICTS,
            "Redis is there and isn't used: by its maxmemory-policy it would drop requests and results when its memory "
            "is full. Set it there: CONFIG SET maxmemory-policy noeviction, and in its configuration. The pods look "
            "again every second, and go on by themselves.",
        )
    if facts.scrape.is_broker_up is not False:
        return _check_redis_memory(facts)
    return no(
        Reason.REDIS_UNAVAILABLE,
        "No pod of the service reaches Redis, so no request can be queued. Check that Redis runs, and "
        f"that the address in Secret {facts.owner.namespace}/{facts.owner.name}-redis (set at installation) is right.",
    )


def _check_redis_memory(facts: ServiceFacts) -> ConditionState | None:
    if not facts.scrape.is_redis_full:
        return None
    return no(
        Reason.REDIS_FULL,
        "Redis has used its maxmemory, so new requests are refused (507); those under way go on. Raise its maxmemory "
        "(of the chart's own redis.maxMemory, and redis.resources with it), or lower gateway.results and gateway.cache "
        "of the services that share it.",
    )


def _check_address(failures: tuple[ApplyFailure, ...]) -> ConditionState | None:
    """Whether the service's address leads to somebody else."""
    taken = next(
        (each for each in failures if each.key.kind == "Service" and each.reason is Reason.CHILD_CONFLICT), None
    )
    return no(taken.reason, taken.message) if taken else None


def _check_guards(facts: ServiceFacts) -> ConditionState | None:
    """Whether gateways of an earlier spec let in whom the present one wouldn't."""
    missing = next((each for each in facts.missing if each.is_guard), None)
    if missing is None or not facts.earlier_ready_pods(missing.component):
        return None
    return no(
        Reason.REFERENCE_MISSING,
        f"{missing.describe()}. Until then gateways of the previous revision go on: by the keys that they have, or, "
        "without any, they refuse everybody as soon as they have read their new configuration.",
    )


def _check_gateways(facts: ServiceFacts, failures: tuple[ApplyFailure, ...]) -> ConditionState | None:
    if any(gateway.is_ready for gateway in facts.gateways):
        return None
    wanted = replicas_of(facts.gateway_deployment) or facts.spec.gateway.replicas
    return _find_cause(facts, names.COMPONENT_GATEWAY, failures) or no(
        Reason.GATEWAY_UNAVAILABLE,
        f"None of {wanted} gateway pods is ready{_why_not_ready(facts, names.COMPONENT_GATEWAY)}.",
    )


def _check_workers(facts: ServiceFacts, failures: tuple[ApplyFailure, ...]) -> ConditionState | None:
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
    # What can't be written may still leave a worker to wake; what its pods lack doesn't.
    cause = _find_cause(facts, names.COMPONENT_WORKER, failures if wanted != 0 else ())
    if cause is None and facts.model_fetch is not None and facts.worker_deployment is None:
        return no(Reason.LOADING, facts.model_fetch.message)
    return cause or _check_waking(facts) or (None if wanted == 0 else _say_workers_unavailable(facts))


def _say_workers_unavailable(facts: ServiceFacts) -> ConditionState:
    wanted = facts.wanted_workers
    return no(
        Reason.WORKERS_UNAVAILABLE,
        f"None of {wanted if wanted is not None else 'the'} worker pods is ready"
        f"{_why_not_ready(facts, names.COMPONENT_WORKER)}.{_advise_on_late_start(facts)}",
    )


def _advise_on_late_start(facts: ServiceFacts) -> str:
    starting = [worker.created_at for worker in facts.workers if worker.phase not in (None, StartPhase.PLACING)]
    begun = min([each for each in starting if each is not None], default=facts.now)
    if (facts.now - begun).total_seconds() <= facts.start_timeout_seconds:
        return ""
    return (
        f" That is longer than the {facts.start_timeout_seconds:.0f} s that a start may take; {_where_to_look(facts)}."
    )


def _where_to_look(facts: ServiceFacts) -> str:
    return f"see kubectl describe pod -l {build_worker_pod_selector_text(facts.owner)} and the workers' log"


def find_waking_since(facts: ServiceFacts) -> datetime | None:
    """Since when requests wait for the first worker; None if the service isn't waking up.

    While it wakes, requests wait in the queue, so the service keeps its promise; a worker that no node takes, or that
    the cluster refuses, is another matter.
    """
    if facts.ready_workers > 0 or facts.mode.mode in (ScalingMode.FIXED, ScalingMode.RECOMMEND):
        return None
    if facts.wanted_workers == 0:
        return facts.scrape.waiting_since
    if not facts.was_asleep or facts.wanted_workers is None or _find_obstacle(facts, names.COMPONENT_WORKER):
        return None
    begun = [worker.created_at for worker in facts.workers if worker.created_at is not None]
    return min((*begun, facts.scrape.waiting_since or facts.now))


def _check_waking(facts: ServiceFacts) -> ConditionState | None:
    since = find_waking_since(facts)
    if since is None:
        return None
    if facts.wanted_workers == 0:
        what = "no worker is ordered yet"
        advice = "see the condition ScalingActive"
    else:
        what = _describe_start(facts.workers) or "its pod isn't there yet"
        advice = _where_to_look(facts)
    begun = f"Requests wait for the first worker since {_clock(since)}: {what}."
    if (facts.now - since).total_seconds() <= facts.start_timeout_seconds:
        return yes(Reason.WAKING, begun)
    return no(
        Reason.WORKERS_UNAVAILABLE,
        f"{begun} That is longer than the {facts.start_timeout_seconds:.0f} s that a start may take; {advice}.",
    )


def _check_asleep(facts: ServiceFacts) -> ConditionState | None:
    if facts.ready_workers > 0:
        return None
    return yes(
        Reason.SCALED_TO_ZERO,
        "No worker runs while there is no work; the next request starts one and waits in the queue for it.",
    )


def _check_trouble_beside(facts: ServiceFacts, failures: tuple[ApplyFailure, ...]) -> ConditionState | None:
    """What ails pods, or keeps new ones from starting, while others serve."""
    for component in (names.COMPONENT_WORKER, names.COMPONENT_GATEWAY):
        trouble = _find_cause(facts, component, failures)
        if trouble is not None:
            return yes(*_say_who_serves(facts, component, trouble))
    return None


def _say_who_serves(facts: ServiceFacts, component: str, trouble: ConditionState) -> tuple[Reason, str]:
    """How many pods serve beside those in trouble; if they are of an earlier spec, how to go back to it."""
    wanted = replicas_of(facts.deployment_of(component)) or 0
    earlier = facts.earlier_ready_pods(component)
    if not earlier or facts.is_rolled_out:
        ready = sum(pod.is_ready for pod in facts.pods_of(component))
        return Reason.DEGRADED, f"{ready} of {wanted} {component} pods are ready. {trouble.message}"
    return (
        Reason.SERVING_PREVIOUS_REVISION,
        f"{len(earlier)} of {wanted} {component} pods still serve the previous revision, and the new ones don't come "
        f"up: {trouble.message.rstrip('.')}. {_how_to_go_back(facts, earlier)}",
    )


def _how_to_go_back(facts: ServiceFacts, earlier: tuple[PodStatus, ...]) -> str:
    model = next((pod.model for pod in earlier if pod.model), "")
    rest = " beside its cache" if facts.spec.model.cache is not None else ""
    step = (
        f"set spec.model{rest} to {model}"
        if model and model != describe_model(facts.spec)
        else "apply the previous spec"
    )
    return f"To go back, {step} again; kubectl rollout undo doesn't last, as the operator restores what the spec says."


def _find_cause(facts: ServiceFacts, component: str, failures: tuple[ApplyFailure, ...]) -> ConditionState | None:
    """Why pods don't come up until somebody acts: what can't be written, what they say themselves, what is missing."""
    if failures:
        return no(failures[0].reason, failures[0].message)
    problem = find_problem(_newest(facts, component) or facts.pods_of(component))
    problem = problem or find_eviction(facts, component)
    if problem is not None:
        return no(problem.reason, problem.message)
    fetch = facts.model_fetch
    if component == names.COMPONENT_WORKER and fetch is not None and fetch.problem is not None:
        return no(fetch.problem.reason, fetch.problem.message)
    missing = next((each for each in facts.missing if each.component == component), None)
    return no(Reason.REFERENCE_MISSING, f"{missing.describe()}.") if missing else None


def _newest(facts: ServiceFacts, component: str) -> tuple[PodStatus, ...]:
    wanted = facts.wanted_revisions.get(component)
    return tuple(pod for pod in facts.pods_of(component) if pod.revision == wanted)


def _why_not_ready(facts: ServiceFacts, component: str) -> str:
    obstacle = _find_obstacle(facts, component)
    if obstacle is not None:
        return f": {obstacle.message.rstrip('.')}"
    start = _describe_start(facts.pods_of(component))
    return f": {start}" if start else ""


def _describe_start(pods: tuple[PodStatus, ...]) -> str:
    """How far the pod that began first has come; it doesn't change while nothing does."""
    starting = [pod for pod in pods if pod.phase is not None]
    if not starting:
        return ""
    first = min(starting, key=lambda pod: (str(pod.created_at), pod.name))
    since = f", created at {_clock(first.created_at)}," if first.created_at else ""
    return f"pod {first.name}{since} {first.phase}"


def _clock(moment: datetime) -> str:
    return moment.strftime("%H:%M:%S UTC")


def decide_model_loaded(facts: ServiceFacts) -> ConditionState:
    """Whether some worker holds the model, and none has failed to load it."""
    trouble = _find_cause(facts, names.COMPONENT_WORKER, ())
    holds = facts.ready_workers > 0
    # A Secret that went later takes nothing from those that have loaded.
    if trouble is not None and not (holds and facts.is_rolled_out and trouble.reason is Reason.REFERENCE_MISSING):
        if not holds:
            return trouble
        return no(trouble.reason, _say_who_serves(facts, names.COMPONENT_WORKER, trouble)[1])
    if holds:
        return yes(Reason.LOADED, "Every ready worker holds the model.")
    if facts.workers:
        return no(Reason.LOADING, "The workers are being placed, or are fetching and loading the model.")
    return _say_why_nobody_holds_it(facts)


def _say_why_nobody_holds_it(facts: ServiceFacts) -> ConditionState:
    if facts.model_fetch is not None:
        return no(Reason.LOADING, facts.model_fetch.message)
    if facts.wanted_workers == 0:
        return no(Reason.SCALED_TO_ZERO, "No worker runs, so none holds the model.")
    return unknown("No worker pod exists yet.")


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
        trouble = _find_cause(facts, component, ())
        if trouble is None or (trouble.reason is not Reason.REFERENCE_MISSING and not _newest(facts, component)):
            continue
        if facts.earlier_ready_pods(component):
            return no(trouble.reason, _say_who_serves(facts, component, trouble)[1])
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


def decide_capacity_available(facts: ServiceFacts) -> ConditionState:
    """Whether the cluster takes the pods that are wanted, workers first."""
    for component in (names.COMPONENT_WORKER, names.COMPONENT_GATEWAY):
        obstacle = _find_obstacle(facts, component)
        if obstacle is not None:
            return obstacle
    return yes(Reason.SUFFICIENT, "Every pod that is wanted has a node.")


def _find_obstacle(facts: ServiceFacts, component: str) -> ConditionState | None:
    """Why a component's pods have no node, or can't even be created."""
    pods, deployment = facts.pods_of(component), facts.deployment_of(component)
    stuck = [pod.unschedulable_message for pod in pods if pod.unschedulable_message is not None]
    if stuck:
        said = min(stuck)
        why = explain_unschedulable(said, _needs_of(facts, component))
        return no(
            why.reason,
            f"{len(stuck)} of {len(pods)} {component} pods have no node: {quote(said)} {why.advice}",
        )
    refused = find_condition(deployment, "ReplicaFailure") if deployment else None
    if refused is None or refused["status"] != "True":
        return None
    said = str(refused.get("message", ""))
    why = explain_refused(said, _needs_of(facts, component))
    return no(why.reason, f"{component.capitalize()} pods can't be created: {quote(said)} {why.advice}")


def _needs_of(facts: ServiceFacts, component: str) -> PodNeeds:
    if component == names.COMPONENT_GATEWAY:
        is_autoscaled = facts.spec.gateway.autoscaling is not None
        return PodNeeds(component, f"spec.gateway.{'autoscaling.maxReplicas' if is_autoscaled else 'replicas'}")
    volume, gpu = facts.spec.model.source.persistent_volume_claim, facts.spec.worker.gpu
    return PodNeeds(
        component,
        _limit_field(facts),
        claim_name=volume.claim_name if volume else None,
        gpu_resource=gpu.resource_name,
        gpu_count=gpu.count,
    )


def _limit_field(facts: ServiceFacts) -> str:
    if facts.mode.mode is ScalingMode.RECOMMEND:
        return f"the replicas of Deployment {names.worker_name(facts.owner.name)}"
    return "spec.replicas" if facts.mode.mode is ScalingMode.FIXED else "spec.scaling.maxReplicas"
