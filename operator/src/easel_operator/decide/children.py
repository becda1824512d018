"""Which children to write, to hand over and to delete, and which can't be."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from easel_contract import names
from easel_contract.conditions import Reason

from easel_operator.decide.drift import Renewal, find_renewals, is_applied
from easel_operator.decide.facts import ModelFetch, ServiceFacts, replicas_of
from easel_operator.decide.model_cache import find_model_fetch, is_held_back
from easel_operator.decide.rollouts.turns import RolloutDecision
from easel_operator.decide.snapshot import ApplyFailure, Handover, Snapshot
from easel_operator.manifests.configuration import build_links_secret
from easel_operator.manifests.metadata import Owner, read_owner, read_revision
from easel_operator.objects import (
    CHILD_RESOURCES,
    CONFIG_MAPS,
    DEPLOYMENTS,
    HPAS,
    SECRETS,
    Json,
    ObjectKey,
    is_owned_by,
    to_object_key,
)

APPLY_ORDER: Final = {resource.kind: place for place, resource in enumerate(CHILD_RESOURCES)}


@dataclass(frozen=True)
class ChildrenPlan:
    """What to do about the children of one service, and what came in the way."""

    handovers: tuple[Handover, ...]
    creates: tuple[Json, ...]
    applies: tuple[Json, ...]  # in the order in which they are needed
    deletes: tuple[ObjectKey, ...]
    conflicts: tuple[ApplyFailure, ...]
    renewals: tuple[Renewal, ...]
    failures: tuple[ApplyFailure, ...]  # conflicts among them
    fetch: ModelFetch | None  # that workers wait for
    revisions: dict[str, str]  # of the wanted Deployments, by component
    is_applied: bool  # all children are as they shall be


def decide_children(
    snapshot: Snapshot, facts: ServiceFacts, wanted: tuple[Json, ...], rollout: RolloutDecision
) -> ChildrenPlan:
    """Compare the wanted children with those that are there."""
    wanted = _keep_waiting(wanted, facts.worker_deployment if rollout.keeps_deployment else None)
    unserved = [child for child in wanted if child["kind"] in snapshot.capabilities.unserved_kinds]
    wanted = tuple(child for child in wanted if child not in unserved)
    creates = _find_creates(snapshot, facts.owner) if facts.spec.gateway.api_keys_secret_name else ()
    conflicts = _find_conflicts(snapshot, (*creates, *wanted))
    fetch = find_model_fetch(snapshot, facts.owner, wanted)
    refused = tuple(_find_unmountable(snapshot, wanted))
    applies = _find_applies(snapshot, wanted, fetch, {each.key for each in refused})
    failures = (*conflicts, *map(_report_unserved, unserved), *refused, *snapshot.failures)
    config = next(child for child in wanted if child["kind"] == CONFIG_MAPS.kind)
    return ChildrenPlan(
        handovers=() if conflicts else (*_find_handovers(snapshot, applies), *_scale_waiting(facts, rollout)),
        creates=() if conflicts else creates,
        applies=() if conflicts else applies,
        deletes=_find_deletes(snapshot, wanted, conflicts),
        conflicts=conflicts,
        renewals=find_renewals(snapshot.children.get(to_object_key(config)), config, facts.gateways),
        failures=failures,
        fetch=fetch,
        revisions=_read_revisions(wanted),
        is_applied=not (creates or applies or failures or fetch),
    )


def _find_applies(
    snapshot: Snapshot, wanted: tuple[Json, ...], fetch: ModelFetch | None, refused: set[ObjectKey]
) -> tuple[Json, ...]:
    due = [
        child
        for child in wanted
        if _needs_apply(snapshot, child)
        and to_object_key(child) not in refused
        and not is_held_back(child, snapshot, fetch)
    ]
    return tuple(sorted(due, key=lambda child: APPLY_ORDER[child["kind"]]))


def _find_creates(snapshot: Snapshot, owner: Owner) -> tuple[Json, ...]:
    links = build_links_secret(owner)
    live = snapshot.children.get(to_object_key(links))
    return () if live is not None and is_owned_by(live, owner.uid) else (links,)


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


def _needs_apply(snapshot: Snapshot, wanted: Json) -> bool:
    live = snapshot.children.get(to_object_key(wanted))
    if live is wanted:
        return False  # it waits
    if live is not None and "deletionTimestamp" in live["metadata"]:
        return False  # its end is an event of its own, after which it is made anew
    return not is_applied(live, wanted)


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


def _read_revisions(wanted: tuple[Json, ...]) -> dict[str, str]:
    return {
        child["metadata"]["labels"][names.LABEL_COMPONENT]: read_revision(child)
        for child in wanted
        if child["kind"] == "Deployment"
    }
