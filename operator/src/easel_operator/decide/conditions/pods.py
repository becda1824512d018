"""Why pods don't come up, said of gateways and workers alike, and the conditions that say nothing else."""

from datetime import datetime

from easel_contract import names
from easel_contract.conditions import Reason

from easel_operator.decide.conditions import ConditionState, no, unknown, yes
from easel_operator.decide.conditions.placement import PodNeeds, explain_refused, explain_unschedulable, quote
from easel_operator.decide.facts import ServiceFacts, find_eviction, find_problem, replicas_of
from easel_operator.decide.pod_status import PodStatus
from easel_operator.decide.scaling_mode import ScalingMode
from easel_operator.decide.snapshot import ApplyFailure
from easel_operator.manifests.worker import describe_model
from easel_operator.objects import find_condition


def decide_model_loaded(facts: ServiceFacts) -> ConditionState:
    """Whether some worker holds the model, and none has failed to load it."""
    trouble = find_cause(facts, names.COMPONENT_WORKER, ())
    holds = facts.ready_workers > 0
    # A Secret that went later takes nothing from those that have loaded.
    if trouble is not None and not (holds and facts.is_rolled_out and trouble.reason is Reason.REFERENCE_MISSING):
        if not holds:
            return trouble
        return no(trouble.reason, say_who_serves(facts, names.COMPONENT_WORKER, trouble)[1])
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


def decide_capacity_available(facts: ServiceFacts) -> ConditionState:
    """Whether the cluster takes the pods that are wanted, workers first."""
    for component in (names.COMPONENT_WORKER, names.COMPONENT_GATEWAY):
        obstacle = find_obstacle(facts, component)
        if obstacle is not None:
            return obstacle
    return yes(Reason.SUFFICIENT, "Every pod that is wanted has a node.")


def find_cause(facts: ServiceFacts, component: str, failures: tuple[ApplyFailure, ...]) -> ConditionState | None:
    """Why pods don't come up until somebody acts: what can't be written, what they say themselves, what is missing."""
    if failures:
        return no(failures[0].reason, failures[0].message)
    problem = find_problem(find_newest(facts, component) or facts.pods_of(component))
    problem = problem or find_eviction(facts, component)
    if problem is not None:
        return no(problem.reason, problem.message)
    fetch = facts.model_fetch
    if component == names.COMPONENT_WORKER and fetch is not None and fetch.problem is not None:
        return no(fetch.problem.reason, fetch.problem.message)
    missing = next((each for each in facts.missing if each.component == component), None)
    return no(Reason.REFERENCE_MISSING, f"{missing.describe()}.") if missing else None


def find_newest(facts: ServiceFacts, component: str) -> tuple[PodStatus, ...]:
    """A component's pods of the wanted template."""
    wanted = facts.wanted_revisions.get(component)
    return tuple(pod for pod in facts.pods_of(component) if pod.revision == wanted)


def say_who_serves(facts: ServiceFacts, component: str, trouble: ConditionState) -> tuple[Reason, str]:
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


def say_why_not_ready(facts: ServiceFacts, component: str) -> str:
    """As the rest of a sentence; empty where nothing is known."""
    obstacle = find_obstacle(facts, component)
    if obstacle is not None:
        return f": {obstacle.message.rstrip('.')}"
    start = describe_start(facts.pods_of(component))
    return f": {start}" if start else ""


def describe_start(pods: tuple[PodStatus, ...]) -> str:
    """How far the pod that began first has come; it doesn't change while nothing does."""
    starting = [pod for pod in pods if pod.phase is not None]
    if not starting:
        return ""
    first = min(starting, key=lambda pod: (str(pod.created_at), pod.name))
    since = f", created at {format_clock(first.created_at)}," if first.created_at else ""
    return f"pod {first.name}{since} {first.phase}"


def format_clock(moment: datetime) -> str:
    """As messages say it: without the date, since what they tell of is minutes old."""
    return moment.strftime("%H:%M:%S UTC")


def find_obstacle(facts: ServiceFacts, component: str) -> ConditionState | None:
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
