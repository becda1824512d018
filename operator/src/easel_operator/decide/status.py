"""The status of a service, and the merge patch that brings the stored one there."""

from collections.abc import Mapping
from datetime import datetime

from easel_contract import names
from easel_contract.conditions import Condition, ConditionStatus, ConditionType, Reason, build_condition
from easel_contract.resource import (
    MAX_REVISIONS,
    CanaryStatus,
    ModelCacheStatus,
    RevisionStatus,
    RolloutStatus,
    ScalingStatus,
    StableDiffusionServiceStatus,
)
from pydantic import ValidationError

from easel_operator.decide.conditions import ConditionState
from easel_operator.decide.facts import ServiceFacts
from easel_operator.decide.grace import GraceDecision
from easel_operator.decide.snapshot import EventPlan, EventType, ScalingDecision
from easel_operator.manifests.exposure import service_url
from easel_operator.manifests.metadata import read_revision, read_server_image
from easel_operator.manifests.worker import build_worker_pod_selector_text
from easel_operator.objects import Json

# Reasons that need somebody to act: they are worth an event when they come up.
ALARMING_REASONS = frozenset(
    {
        Reason.REDIS_UNAVAILABLE,
        Reason.REDIS_EVICTS,
        Reason.INVALID_SPEC,
        Reason.CHILD_CONFLICT,
        Reason.APPLY_FAILED,
        Reason.OPERATOR_FAULT,
        Reason.DEADLINE_EXCEEDED,
        Reason.ROLLED_BACK,
        Reason.CANARY_FAILED,
        Reason.MODEL_LOAD_FAILED,
        Reason.ENGINE_FAILED,
        Reason.CRASH_LOOP,
        Reason.EVICTED,
        Reason.IMAGE_PULL_FAILED,
        Reason.METRICS_UNAVAILABLE,
        Reason.ADD_ON_UNAVAILABLE,
        Reason.REFERENCE_MISSING,
        Reason.INSUFFICIENT_CAPACITY,
        Reason.NO_MATCHING_NODE,
        Reason.VOLUME_UNAVAILABLE,
        Reason.QUOTA_EXCEEDED,
        Reason.RESOURCES_MISSING,
        Reason.LIMIT_RANGE_VIOLATED,
        Reason.POD_SECURITY_VIOLATED,
        Reason.ADMISSION_DENIED,
        Reason.PODS_REFUSED,
    }
)
TRUE_OF_PODS = frozenset({ConditionType.READY, ConditionType.MODEL_LOADED, ConditionType.CAPACITY_AVAILABLE})


def build_status(
    facts: ServiceFacts,
    conditions: tuple[Condition, ...],
    grace: GraceDecision,
    rollout: RolloutStatus | None,
    revisions: tuple[RevisionStatus, ...],
    canary: CanaryStatus | None,
    *,
    generation: int,
) -> StableDiffusionServiceStatus:
    """The status of a service whose spec is valid, without the scaling loop's part (status.scaling)."""
    return StableDiffusionServiceStatus(
        observed_generation=generation,
        replicas=len(facts.workers),
        ready_replicas=facts.ready_workers,
        selector=build_worker_pod_selector_text(facts.owner),
        url=service_url(facts.owner),
        termination=grace.to_status(),
        cold_start=facts.scrape.cold_start,
        model_cache=_build_model_cache(facts),
        rollout=rollout,
        canary=canary,
        revisions=revisions,
        conditions=conditions,
    )


def _build_model_cache(facts: ServiceFacts) -> ModelCacheStatus | None:
    progress = None if facts.model_fetch is None else facts.model_fetch.progress
    if progress is None:
        return None
    return ModelCacheStatus(
        needed_bytes=progress.needed_bytes,
        fetched_bytes=progress.fetched_bytes,
        verified_bytes=progress.verified_bytes,
    )


def build_scaling_status(service: Json, decision: ScalingDecision | None) -> Json | None:
    """The last decision on the wire; what is stored stands until the scaling loop has spoken after a restart."""
    if decision is None:
        stored: Json | None = service.get("status", {}).get("scaling")
        return stored
    status = ScalingStatus(
        desired_replicas=decision.desired_replicas,
        reason=decision.sentence,
        decided_at=decision.decided_at,
        cold_starts_seconds=decision.cold_starts_seconds,
        headroom=decision.headroom,
    )
    return status.to_wire()


def build_conditions(
    states: Mapping[ConditionType, ConditionState],
    previous: Mapping[ConditionType, Condition],
    *,
    generation: int,
    is_rolled_out: bool,
    now: datetime,
) -> tuple[Condition, ...]:
    """Conditions with their transition times, in the order of ConditionType.

    What is true of pods of an earlier spec is said of that one's generation, so that ``kubectl wait`` after an edit
    waits for the pods of the edit: it compares a condition's observedGeneration with the resource's.
    """

    def observed(kind: ConditionType) -> int:
        if is_rolled_out or kind not in TRUE_OF_PODS or states[kind].status is not ConditionStatus.TRUE:
            return generation
        known = previous.get(kind)
        return max(0, min(generation - 1, known.observed_generation if known else generation))

    return tuple(
        build_condition(
            kind,
            states[kind].status,
            states[kind].reason,
            states[kind].message,
            generation=observed(kind),
            now=now,
            previous=previous.get(kind),
        )
        for kind in ConditionType
        if kind in states
    )


def read_conditions(service: Json) -> dict[ConditionType, Condition]:
    """The stored conditions by type; what another version wrote and this one can't read is left out."""
    found = {}
    for entry in service.get("status", {}).get("conditions") or []:
        try:
            condition = Condition.model_validate(entry)
        except ValidationError:
            continue
        found[condition.type] = condition
    return found


def build_status_patch(service: Json, wanted: Json) -> Json | None:
    """Merge patch from the stored status to the wanted one; None when they are equal."""
    current = service.get("status", {})
    if current == wanted:
        return None
    removed = dict.fromkeys(current.keys() - wanted.keys())
    return {"status": {**wanted, **removed}}


def build_condition_events(
    previous: Mapping[ConditionType, Condition], conditions: tuple[Condition, ...]
) -> tuple[EventPlan, ...]:
    """An event for every alarming reason that has come up, once even if several conditions carry it."""
    before = {condition.reason for condition in previous.values()}
    events: dict[Reason, EventPlan] = {}
    for condition in conditions:
        if condition.reason in ALARMING_REASONS and condition.reason not in before:
            events.setdefault(
                condition.reason, EventPlan(EventType.WARNING, condition.reason, "Reconcile", condition.message)
            )
    if _became(ConditionStatus.TRUE, previous.get(ConditionType.READY), conditions):
        ready = next(each for each in conditions if each.type is ConditionType.READY)
        return (*events.values(), EventPlan(EventType.NORMAL, "Ready", "Reconcile", ready.message))
    return tuple(events.values())


def _became(status: ConditionStatus, before: Condition | None, conditions: tuple[Condition, ...]) -> bool:
    ready = next((each for each in conditions if each.type is ConditionType.READY), None)
    return ready is not None and ready.status is status and (before is None or before.status is not status)


def build_headroom_events(service: Json, decision: ScalingDecision | None) -> tuple[EventPlan, ...]:
    """An event when the error budget turns out to cost too much; the status keeps the advice while it holds."""
    headroom = None if decision is None else decision.headroom
    stored: Json = (service.get("status", {}).get("scaling") or {}).get("headroom") or {}
    if headroom is None or not headroom.advice or stored.get("advice"):
        return ()
    return (EventPlan(EventType.NORMAL, "LateBudgetExceeded", "Scale", headroom.advice),)


def build_scaling_events(
    service: Json, decision: ScalingDecision | None, *, is_carried_out: bool
) -> tuple[EventPlan, ...]:
    """An event for a decision that the stored status doesn't have yet."""
    stored = (service.get("status", {}).get("scaling") or {}).get("desiredReplicas")
    if decision is None or decision.desired_replicas == stored:
        return ()
    if not is_carried_out:
        return (EventPlan(EventType.NORMAL, "ScalingRecommendation", "Recommend", decision.sentence),)
    return (EventPlan(EventType.NORMAL, "ScalingDecision", "Scale", decision.sentence),)


def read_revisions(service: Json) -> tuple[RevisionStatus, ...]:
    """The stored history; none if another version wrote what this one can't read."""
    stored = service.get("status", {}).get("revisions") or []
    try:
        return tuple(RevisionStatus.model_validate(each) for each in stored)
    except ValidationError:
        return ()


def build_revisions(service: Json, facts: ServiceFacts) -> tuple[RevisionStatus, ...]:
    """The history with what the worker Deployment has now: another entry where that is news, however it came about."""
    live, known = facts.worker_deployment, read_revisions(service)
    revision = read_revision(live) if live is not None else ""
    if live is None or not revision:
        return known
    if not known or known[-1].revision != revision:
        template = live["spec"]["template"]
        model = template["metadata"]["annotations"].get(names.ANNOTATION_MODEL, "")
        number = known[-1].number + 1 if known else 1
        known = (
            *known,
            RevisionStatus(
                number=number, revision=revision, image=read_server_image(live) or "", model=model, since=facts.now
            ),
        )
    if known[-1].ready_at is None and any(pod.is_ready and pod.revision == revision for pod in facts.workers):
        known = (*known[:-1], known[-1].model_copy(update={"ready_at": facts.now}))
    return known[-MAX_REVISIONS:]
