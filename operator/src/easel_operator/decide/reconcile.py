"""From a snapshot of one service to the plan of what to write: start reading here."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from easel_contract import names
from easel_contract.conditions import ConditionStatus, ConditionType, Reason, build_condition
from easel_contract.resource import StableDiffusionServiceSpec
from pydantic import ValidationError

from easel_operator.decide.conditions import (
    ConditionState,
    decide_capacity_available,
    decide_model_loaded,
    decide_progressing,
    decide_ready,
    decide_reconciling,
    decide_scaling_active,
    decide_stalled,
    find_waking_since,
    no,
    unknown,
    yes,
)
from easel_operator.decide.drift import find_renewals, is_applied
from easel_operator.decide.facts import ServiceFacts, read_facts, replicas_of
from easel_operator.decide.grace import (
    build_grace_events,
)
from easel_operator.decide.model_cache import find_model_fetch, is_held_back
from easel_operator.decide.pod_status import read_pods
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
from easel_operator.decide.snapshot import ApplyFailure, Handover, ReconcilePlan, Snapshot
from easel_operator.decide.status import (
    build_condition_events,
    build_conditions,
    build_headroom_events,
    build_revisions,
    build_scaling_events,
    build_scaling_status,
    build_status,
    build_status_patch,
    decide_add_ons_available,
    decide_redis_user,
    read_conditions,
)
from easel_operator.manifests.children import build_children
from easel_operator.manifests.configuration import build_links_secret
from easel_operator.manifests.metadata import Owner, read_revision
from easel_operator.objects import (
    CHILD_RESOURCES,
    DEPLOYMENTS,
    HPAS,
    SECRETS,
    Json,
    ObjectKey,
    is_living,
    is_owned_by,
    to_object_key,
)

APPLY_ORDER: Final = {resource.kind: place for place, resource in enumerate(CHILD_RESOURCES)}


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
        return replace(_report_invalid_spec(snapshot, error), finalizers=surplus)
    return replace(_decide_valid(snapshot, spec), finalizers=surplus)


def _decide_valid(snapshot: Snapshot, spec: StableDiffusionServiceSpec) -> ReconcilePlan:
    service = snapshot.service
    owner = read_owner(service)
    mode = decide_mode(spec, snapshot.capabilities)
    facts = read_facts(snapshot, owner, spec, mode)
    source, facts, grace, context = prepare(snapshot, facts, choose_source(snapshot, facts))
    spec = source.spec
    rollout = decide_rollout(
        facts,
        context,
        snapshot.release,
        has_turn=snapshot.has_turn,
        back=source.back,
        is_called_off=source.is_called_off,
    )
    last_good = decide_last_good(service, facts.worker_deployment, is_changing=rollout.is_changing)
    context = replace(context, rollout_cause=rollout.cause, last_good=last_good)
    if not context.is_on_trial:
        is_surging = decide_surge(facts, is_changing=rollout.is_changing) and not source.is_called_off
        context = replace(context, is_surging=is_surging)
    wanted = build_children(
        build_stable_context(context, source),
        has_hpa=mode.mode is ScalingMode.AUTOSCALER,
        is_tolerance_supported=snapshot.capabilities.is_tolerance_supported,
        trial=context if context.is_on_trial else None,
    )
    wanted = _keep_waiting(wanted, facts.worker_deployment if rollout.keeps_deployment else None)
    unserved = [child for child in wanted if child["kind"] in snapshot.capabilities.unserved_kinds]
    wanted = tuple(child for child in wanted if child not in unserved)
    config = next(child for child in wanted if child["kind"] == "ConfigMap")
    creates = _find_creates(snapshot, owner) if spec.gateway.api_keys_secret_name else ()
    conflicts = _find_conflicts(snapshot, (*creates, *wanted))
    fetch = find_model_fetch(snapshot, owner, wanted)
    refused = tuple(_find_unmountable(snapshot, wanted))
    kept_back = {each.key for each in refused}
    due = [
        child
        for child in wanted
        if _needs_apply(snapshot, child)
        and to_object_key(child) not in kept_back
        and not is_held_back(child, snapshot, fetch)
    ]
    applies = tuple(sorted(due, key=lambda child: APPLY_ORDER[child["kind"]]))
    failures = (*conflicts, *map(_report_unserved, unserved), *refused, *snapshot.failures)
    facts = replace(
        facts,
        wanted_revisions=_read_revisions(wanted),
        is_applied=not (creates or applies or failures or fetch),
        model_fetch=fetch,
    )
    generation = service["metadata"].get("generation", 0)
    previous = read_conditions(service)
    conditions = build_conditions(
        _decide_conditions(facts, failures, snapshot, source),
        previous,
        generation=generation,
        is_rolled_out=facts.is_rolled_out,
        now=snapshot.now,
    )
    revisions = build_revisions(service, facts)
    said = say_lost(spec) if source.is_lost else rollout.status
    was_tried = source.canary is not None or "canary" in service.get("status", {})
    canary = None if source.canary is None else build_canary_status(service, facts, source.canary)
    status = build_status(facts, conditions, grace, said, revisions, canary, generation=generation).to_wire()
    decision = snapshot.scaling if spec.scaling is not None else None
    scaling_status = build_scaling_status(service, decision) if spec.scaling is not None else None
    if scaling_status is not None:
        status["scaling"] = scaling_status
    return ReconcilePlan(
        handovers=() if conflicts else (*_find_handovers(snapshot, applies), *_scale_waiting(facts, rollout)),
        creates=() if conflicts else creates,
        applies=() if conflicts else applies,
        deletes=_find_deletes(snapshot, wanted, conflicts),
        conflicts=conflicts,
        renewals=find_renewals(snapshot.children.get(to_object_key(config)), config, facts.gateways),
        status_patch=build_status_patch(service, status),
        events=(
            *build_headroom_events(service, decision),
            *build_scaling_events(service, decision, is_carried_out=mode.mode is not ScalingMode.RECOMMEND),
            *build_condition_events(previous, conditions),
            *build_grace_events(service, grace),
            *(build_canary_events(service, facts.worker_deployment, canary, source.canary) if was_tried else ()),
        ),
        look_again_at=_find_next_look(facts, source.canary),
        standing=rollout.standing,
    )


def _scale_waiting(facts: ServiceFacts, rollout: RolloutDecision) -> Iterator[Handover]:
    """The number of workers of a Deployment that keeps all else of an earlier release."""
    live, replicas = facts.worker_deployment, facts.spec.replicas
    if rollout.keeps_deployment and live is not None and replicas not in {None, replicas_of(live)}:
        yield Handover(to_object_key(live), replicas or 0)


def _keep_waiting(wanted: tuple[Json, ...], live: Json | None) -> tuple[Json, ...]:
    """With the Deployment as it is in place of the wanted one, where it is to wait."""
    if live is None:
        return wanted
    return tuple(live if to_object_key(child) == to_object_key(live) else child for child in wanted)


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


def _find_conflicts(snapshot: Snapshot, wanted: tuple[Json, ...]) -> tuple[ApplyFailure, ...]:
    """The wanted children whose names are taken. One is enough to write none: half a service serves nobody, and its
    workers would hold GPUs for it."""
    owner = read_owner(snapshot.service)
    found = []
    for child in wanted:
        key = to_object_key(child)
        live = snapshot.children.get(key)
        if live is not None and not is_owned_by(live, owner.uid):
            found.append(ApplyFailure(key, Reason.CHILD_CONFLICT, describe_conflict(key, live, owner)))
    return tuple(found)


def describe_conflict(key: ObjectKey, live: Json, owner: Owner) -> str:
    """That a child's name is taken by ``live``, and what to do."""
    references = live["metadata"].get("ownerReferences", [])
    earlier = any(each.get("kind") == names.KIND and each.get("name") == owner.name for each in references)
    if earlier:
        return f"{key} belongs to a deleted service of the same name; it is made anew once that one is collected."
    return (
        f"{key} exists and isn't owned by this service, so it is left alone and no pods are made; delete or "
        f"rename it, or give this {names.KIND} another name."
    )


def _report_unserved(child: Json) -> ApplyFailure:
    message = (
        f"{to_object_key(child)} can't be made, as this cluster doesn't have {child['apiVersion']} {child['kind']}: "
        "install its CRDs, or take it out of the spec. It is looked for every minute."
    )
    return ApplyFailure(to_object_key(child), Reason.APPLY_FAILED, message)


def _find_unmountable(snapshot: Snapshot, wanted: tuple[Json, ...]) -> Iterator[ApplyFailure]:
    """Deployments with a volume that this cluster's API server would drop; the pods that run go on."""
    if snapshot.capabilities.is_image_volume_supported:
        return
    for child in wanted:
        if child["kind"] != DEPLOYMENTS.kind:
            continue
        images = [each["name"] for each in child["spec"]["template"]["spec"]["volumes"] if "image" in each]
        if images:
            message = (
                f"{to_object_key(child)} can't be made: this cluster doesn't take an image as a volume (volume "
                f"{images[0]}). Kubernetes does from 1.35, and from 1.31 with the feature gate ImageVolume, where the "
                "container runtime does, too; else put the model on a claim (model.source.persistentVolumeClaim, or "
                "model.cache). It is asked for every minute."
            )
            yield ApplyFailure(to_object_key(child), Reason.APPLY_FAILED, message)


def _find_deletes(
    snapshot: Snapshot, wanted: tuple[Json, ...], conflicts: tuple[ApplyFailure, ...]
) -> tuple[ObjectKey, ...]:
    """Our children that are no longer wanted; after a conflict, only an HPA of ours that would scale a stranger's."""
    owner = read_owner(snapshot.service)
    ours = {
        key
        for key, live in snapshot.children.items()
        if is_owned_by(live, owner.uid) and "deletionTimestamp" not in live["metadata"]
    }
    if conflicts:  # an autoscaler has the name of its Deployment
        taken = {each.key.name for each in conflicts if each.key.kind == DEPLOYMENTS.kind}
        return tuple(sorted(key for key in ours if key.kind == HPAS.kind and key.name in taken))
    # Secrets stay: links that are out open again if keys are switched off and on.
    kept = {to_object_key(child) for child in wanted} | {key for key in ours if key.kind == SECRETS.kind}
    return tuple(sorted(ours - kept))


def _read_revisions(wanted: tuple[Json, ...]) -> dict[str, str]:
    return {
        child["metadata"]["labels"][names.LABEL_COMPONENT]: read_revision(child)
        for child in wanted
        if child["kind"] == "Deployment"
    }


def read_owner(service: Json) -> Owner:
    """The service as its children's owner."""
    metadata = service["metadata"]
    return Owner(metadata["namespace"], metadata["name"], metadata["uid"])


def find_surplus_finalizer(service: Json) -> tuple[str, ...] | None:
    """All finalizers but that of earlier releases, which keeps a service while no operator runs; None without it."""
    finalizers = service["metadata"].get("finalizers", [])
    if names.FINALIZER not in finalizers:
        return None
    return tuple(name for name in finalizers if name != names.FINALIZER)


def _needs_apply(snapshot: Snapshot, wanted: Json) -> bool:
    live = snapshot.children.get(to_object_key(wanted))
    if live is wanted:
        return False  # it waits
    if live is not None and "deletionTimestamp" in live["metadata"]:
        return False  # its end is an event of its own, after which it is made anew
    return not is_applied(live, wanted)


def _find_creates(snapshot: Snapshot, owner: Owner) -> tuple[Json, ...]:
    links = build_links_secret(owner)
    live = snapshot.children.get(to_object_key(links))
    return () if live is not None and is_owned_by(live, owner.uid) else (links,)


def _find_handovers(snapshot: Snapshot, applies: tuple[Json, ...]) -> list[Handover]:
    """Deployments whose replicas we have been sending and are about to leave to an autoscaler."""
    found = []
    for wanted in applies:
        key = to_object_key(wanted)
        live = snapshot.children.get(key)
        if live is None or wanted["kind"] != "Deployment" or "replicas" in wanted["spec"]:
            continue
        if _is_replicas_ours(live):
            found.append(Handover(key, replicas_of(live) or 0))
    return found


def _is_replicas_ours(deployment: Json) -> bool:
    return any(
        entry.get("manager") == names.FIELD_MANAGER
        and entry.get("operation") == "Apply"
        and "f:replicas" in entry.get("fieldsV1", {}).get("f:spec", {})
        for entry in deployment["metadata"].get("managedFields", [])
    )


def _report_invalid_spec(snapshot: Snapshot, error: ValidationError) -> ReconcilePlan:
    """Say what is wrong and leave the children as they are: what serves now goes on serving."""
    problem = no(Reason.INVALID_SPEC, describe_validation_error(error))
    news = {ConditionType.READY: _say_who_serves_meanwhile(snapshot, problem), ConditionType.PROGRESSING: problem}
    return _report_only(snapshot.service, news, unknown("Waits for a valid spec."), snapshot.now)


def report_fault(service: Json, error: Exception, now: datetime) -> ReconcilePlan:
    """Say that the operator met a fault of its own with this service; an empty plan if it has said so of this spec.

    Once, since the words of an error may differ each time, and a status that changes has the service looked at anew.
    """
    reported = read_conditions(service).get(ConditionType.PROGRESSING)
    generation = service["metadata"].get("generation", 0)
    if reported is not None and (reported.reason, reported.observed_generation) == (Reason.OPERATOR_FAULT, generation):
        return ReconcilePlan()
    problem = no(
        Reason.OPERATOR_FAULT,
        f"The operator met a fault of its own with this service ({type(error).__name__}: {error}) and tries again each "
        "minute; what runs goes on running, and this spec isn't carried out until then. The operator's log has the "
        "traceback; please report it.",
    )
    return _report_only(service, {ConditionType.PROGRESSING: problem}, unknown("Not looked at yet."), now)


def report_forbidden(service: Json, message: str, now: datetime) -> ReconcilePlan:
    """Say that the operator may not read or write the service's Secrets, in the API server's own words."""
    problem = no(
        Reason.APPLY_FAILED,
        f"The operator has no right to Secrets in this namespace, and this spec isn't carried out until it has: "
        f"{message}. Apply the chart again, or see whether a policy of the cluster refuses the operator's RoleBinding.",
    )
    return _report_only(service, {ConditionType.PROGRESSING: problem}, unknown("Not looked at yet."), now)


WATCHED_CONDITIONS: Final = (
    ConditionType.READY,
    ConditionType.MODEL_LOADED,
    ConditionType.SCALING_ACTIVE,
    ConditionType.CAPACITY_AVAILABLE,
)


def report_gone(service: Json, now: datetime) -> ReconcilePlan:
    """Say that nobody looks at the service any more: what was said of its pods may be false at any moment.

    An empty plan where it has been said, and of a service that nobody has looked at yet.
    """
    previous = read_conditions(service)
    gone = ConditionState(
        ConditionStatus.UNKNOWN,
        Reason.OPERATOR_GONE,
        "The operator was uninstalled or scaled to none. What runs goes on running; nobody follows the spec, mends or "
        "scales, and this status isn't kept up. It is once an operator is installed again.",
    )
    said = [
        build_condition(
            kind, gone.status, gone.reason, gone.message, previous=old, generation=old.observed_generation, now=now
        )
        if kind in WATCHED_CONDITIONS
        else old
        for kind, old in previous.items()
    ]
    wire = [condition.to_wire() for condition in said]
    patch = build_status_patch(service, {**service.get("status", {}), "conditions": wire}) if said else None
    return ReconcilePlan(status_patch=patch)


def _report_only(
    service: Json, news: Mapping[ConditionType, ConditionState], waiting: ConditionState, now: datetime
) -> ReconcilePlan:
    """A plan that changes these conditions, Progressing among them, and nothing else; those that aren't there yet are
    ``waiting``."""
    previous = read_conditions(service)
    states = {kind: ConditionState(old.status, old.reason, old.message) for kind, old in previous.items()}
    progressing = news[ConditionType.PROGRESSING]
    news = {
        **news,
        ConditionType.RECONCILING: decide_reconciling(progressing),
        ConditionType.STALLED: decide_stalled(progressing),
    }
    everywhere = set(ConditionType) - {ConditionType.ADD_ONS_AVAILABLE, ConditionType.REDIS_USER}
    states = {**dict.fromkeys(everywhere, waiting), **states, **news}
    generation = service["metadata"].get("generation", 0)
    built = build_conditions(states, previous, generation=generation, is_rolled_out=False, now=now)
    # What wasn't looked at is left with the generation of which it was said.
    conditions = tuple(each if each.type in news else previous.get(each.type, each) for each in built)
    wire = [condition.to_wire() for condition in conditions]
    status = {**service.get("status", {}), "observedGeneration": generation, "conditions": wire}
    return ReconcilePlan(
        status_patch=build_status_patch(service, status), events=build_condition_events(previous, conditions)
    )


def _say_who_serves_meanwhile(snapshot: Snapshot, problem: ConditionState) -> ConditionState:
    roles = (names.COMPONENT_GATEWAY, names.COMPONENT_WORKER)
    pods = [read_pods(snapshot.pods, role, snapshot.now) for role in roles]
    if not all(any(pod.is_ready for pod in of_role) for of_role in pods):
        return problem
    return yes(Reason.SERVING_PREVIOUS_REVISION, f"The pods of the last valid spec go on serving. {problem.message}")


def describe_validation_error(error: ValidationError) -> str:
    """Every fault with its path in the resource and the value seen."""
    faults = [
        f"{'.'.join(['spec', *(str(part) for part in fault['loc'])])}: {fault['msg']} (value seen: {fault['input']!r})"
        for fault in error.errors()
    ]
    return f"The spec isn't valid and nothing was changed; correct {'; '.join(faults)}"
