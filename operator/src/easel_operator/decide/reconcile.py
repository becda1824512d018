"""From a snapshot of one service to the plan of what to write: start reading here."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from easel_contract.conditions import ConditionType, Reason
from easel_contract.resource import StableDiffusionServiceSpec
from pydantic import ValidationError

from easel_operator.decide.children import ChildrenPlan, decide_children
from easel_operator.decide.conditions import ConditionState, no
from easel_operator.decide.conditions.beside import decide_add_ons_available, decide_redis_user
from easel_operator.decide.conditions.pods import decide_capacity_available, decide_model_loaded
from easel_operator.decide.conditions.progressing import (
    decide_progressing,
    decide_reconciling,
    decide_scaling_active,
    decide_stalled,
)
from easel_operator.decide.conditions.ready import decide_ready, find_waking_since
from easel_operator.decide.deletion import find_surplus_finalizer
from easel_operator.decide.facts import ServiceFacts, read_facts
from easel_operator.decide.grace import GraceDecision, build_grace_events
from easel_operator.decide.reports import report_invalid_spec
from easel_operator.decide.rollouts.canary import Canary, explain_none
from easel_operator.decide.rollouts.canary_report import (
    build_canary_events,
    build_canary_status,
    decide_canary_progressing,
)
from easel_operator.decide.rollouts.going_back import decide_last_good
from easel_operator.decide.rollouts.source import Source, build_stable_context, choose_source, prepare
from easel_operator.decide.rollouts.surge import decide_surge
from easel_operator.decide.rollouts.turns import RolloutDecision, decide_rollout, say_lost
from easel_operator.decide.scaling_mode import ScalingMode, decide_mode
from easel_operator.decide.snapshot import ApplyFailure, ReconcilePlan, Snapshot
from easel_operator.decide.status import (
    build_condition_events,
    build_conditions,
    build_headroom_events,
    build_revisions,
    build_scaling_events,
    build_scaling_status,
    build_status,
    build_status_patch,
    read_conditions,
)
from easel_operator.manifests.children import build_children
from easel_operator.manifests.metadata import read_owner
from easel_operator.objects import Json, is_living


def decide(snapshot: Snapshot) -> ReconcilePlan:
    """What to write for one service; an empty plan when the cluster is as it should be."""
    service = snapshot.service
    surplus = find_surplus_finalizer(service)
    if not is_living(service):
        # Children follow through their owner references, and what is being collected must not be made anew. What the
        # service has in Redis is cleaned up by handlers/cleanup.py.
        return ReconcilePlan(finalizers=surplus)
    try:
        spec = StableDiffusionServiceSpec.model_validate(service.get("spec", {}))
    except ValidationError as error:
        return replace(report_invalid_spec(snapshot, error), finalizers=surplus)
    return replace(_decide_valid(snapshot, spec), finalizers=surplus)


def _decide_valid(snapshot: Snapshot, spec: StableDiffusionServiceSpec) -> ReconcilePlan:
    mode = decide_mode(spec, snapshot.capabilities)
    course, facts = _decide_course(snapshot, read_facts(snapshot, read_owner(snapshot.service), spec, mode))
    children = decide_children(snapshot, facts, course.wanted, course.rollout)
    facts = replace(
        facts, wanted_revisions=children.revisions, is_applied=children.is_applied, model_fetch=children.fetch
    )
    return _build_plan(snapshot, facts, course, children)


@dataclass(frozen=True)
class Course:
    """What the children are to be, and how workers get there."""

    source: Source
    grace: GraceDecision
    rollout: RolloutDecision
    wanted: tuple[Json, ...]


def _decide_course(snapshot: Snapshot, facts: ServiceFacts) -> tuple[Course, ServiceFacts]:
    """By what the spec asks for, or an earlier revision in its place: then the facts are of that one's spec."""
    source, facts, grace, context = prepare(snapshot, facts, choose_source(snapshot, facts))
    rollout = decide_rollout(
        facts,
        context,
        snapshot.release,
        has_turn=snapshot.has_turn,
        back=source.back,
        is_called_off=source.is_called_off,
    )
    last_good = decide_last_good(snapshot.service, facts.worker_deployment, is_changing=rollout.is_changing)
    context = replace(context, rollout_cause=rollout.cause, last_good=last_good)
    if not context.is_on_trial:
        is_surging = decide_surge(facts, is_changing=rollout.is_changing) and not source.is_called_off
        context = replace(context, is_surging=is_surging)
    wanted = build_children(
        build_stable_context(context, source),
        has_hpa=facts.mode.mode is ScalingMode.AUTOSCALER,
        is_tolerance_supported=snapshot.capabilities.is_tolerance_supported,
        trial=context if context.is_on_trial else None,
    )
    return Course(source, grace, rollout, wanted), facts


def _build_plan(snapshot: Snapshot, facts: ServiceFacts, course: Course, children: ChildrenPlan) -> ReconcilePlan:
    """With the status and its events, once it is known what becomes of the children."""
    service, source = snapshot.service, course.source
    generation = service["metadata"].get("generation", 0)
    previous = read_conditions(service)
    conditions = build_conditions(
        _decide_conditions(facts, children.failures, snapshot, source),
        previous,
        generation=generation,
        is_rolled_out=facts.is_rolled_out,
        now=snapshot.now,
    )
    canary = None if source.canary is None else build_canary_status(service, facts, source.canary)
    status = build_status(
        facts,
        conditions,
        course.grace,
        say_lost(facts.spec) if source.is_lost else course.rollout.status,
        build_revisions(service, facts),
        canary,
        generation=generation,
    ).to_wire()
    decision = snapshot.scaling if facts.spec.scaling is not None else None
    scaling_status = build_scaling_status(service, decision) if facts.spec.scaling is not None else None
    if scaling_status is not None:
        status["scaling"] = scaling_status
    was_tried = source.canary is not None or "canary" in service.get("status", {})
    return ReconcilePlan(
        handovers=children.handovers,
        creates=children.creates,
        applies=children.applies,
        deletes=children.deletes,
        conflicts=children.conflicts,
        renewals=children.renewals,
        status_patch=build_status_patch(service, status),
        events=(
            *build_headroom_events(service, decision),
            *build_scaling_events(service, decision, is_carried_out=facts.mode.mode is not ScalingMode.RECOMMEND),
            *build_condition_events(previous, conditions),
            *build_grace_events(service, course.grace),
            *(build_canary_events(service, facts.worker_deployment, canary, source.canary) if was_tried else ()),
        ),
        look_again_at=_find_next_look(facts, source.canary),
        standing=course.rollout.standing,
    )


def _decide_conditions(
    facts: ServiceFacts, failures: tuple[ApplyFailure, ...], snapshot: Snapshot, source: Source
) -> dict[ConditionType, ConditionState]:
    progressing = decide_progressing(facts, failures)
    if source.back is not None and not failures:
        progressing = no(Reason.ROLLED_BACK, source.back.message)
    elif not failures and facts.spec.rollout.canary is not None:
        none = explain_none(facts.worker_deployment, source.spec, source.release)
        progressing = decide_canary_progressing(facts, source.canary, none, progressing)
    add_ons = decide_add_ons_available(facts, snapshot.service)
    redis_user = decide_redis_user(snapshot.release.redis_users_refusal)
    return {
        ConditionType.READY: decide_ready(facts, failures),
        ConditionType.PROGRESSING: progressing,
        ConditionType.MODEL_LOADED: decide_model_loaded(facts),
        ConditionType.SCALING_ACTIVE: decide_scaling_active(facts),
        ConditionType.CAPACITY_AVAILABLE: decide_capacity_available(facts),
        ConditionType.RECONCILING: decide_reconciling(progressing),
        ConditionType.STALLED: decide_stalled(progressing),
        **({} if add_ons is None else {ConditionType.ADD_ONS_AVAILABLE: add_ons}),
        **({} if redis_user is None else {ConditionType.REDIS_USER: redis_user}),
    }


def _find_next_look(facts: ServiceFacts, canary: Canary | None) -> datetime | None:
    """When a service that wakes up will have taken too long, or a canary's step has."""
    since = find_waking_since(facts)
    late_at = None if since is None else since + timedelta(seconds=facts.start_timeout_seconds + 1)
    looks = [late_at, None if canary is None else canary.look_again_at]
    return min((at for at in looks if at is not None and at > facts.now), default=None)
