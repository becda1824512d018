"""Carries out what was decided about one service: children, scale, status, events. Decides nothing."""

import base64
import hashlib
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from secrets import token_hex
from typing import Final

from easel_contract import names
from easel_contract.conditions import Reason, shorten

from easel_operator.cluster.client import ApiRefusedError, KubernetesClient, KubernetesError
from easel_operator.cluster.informer import trim
from easel_operator.cluster.object_store import ObjectStore
from easel_operator.decide.children import describe_conflict
from easel_operator.decide.drift import Renewal, take_over
from easel_operator.decide.snapshot import ApplyFailure, EventPlan, EventType, Handover, ReconcilePlan
from easel_operator.manifests.metadata import Owner
from easel_operator.objects import (
    DEPLOYMENTS,
    EVENTS,
    PODS,
    RESOURCE_BY_KIND,
    SECRETS,
    SERVICES_OF_EASEL,
    Json,
    ObjectKey,
    Resource,
    is_owned_by,
    to_object_key,
)

logger = logging.getLogger(__name__)

# Keeps spec.replicas of a Deployment alive while it passes from us to an autoscaler.
HANDOVER_MANAGER: Final = f"{names.FIELD_MANAGER}-handover"
MAX_NOTE_BYTES: Final = 1024  # what events.k8s.io allows
LINK_KEY_BYTES: Final = 32
MADE_ANEW: Final = frozenset({"ConfigMap", "Secret"})  # kinds that users can make immutable
# No object has it, as etcd's first write gets 2: what is applied with it is made, or refused (409) where it is there.
NO_VERSION: Final = "1"
REPORTING_CONTROLLER: Final = f"{names.API_GROUP}/operator"


class ClusterWriter:
    """Writes to the API server; what it answers goes into the store at once, ahead of the watch."""

    def __init__(
        self, client: KubernetesClient, store: ObjectStore, *, pod_name: str, clock: Callable[[], datetime]
    ) -> None:
        self._client = client
        self._store = store
        self._pod_name = pod_name
        self._clock = clock
        self.writes = 0

    async def write_children(
        self, owner: Owner, plan: ReconcilePlan, seen: Mapping[ObjectKey, Json]
    ) -> tuple[ApplyFailure, ...]:
        """Apply and delete children; a child that is refused is reported and the others still written.

        One whose name is taken ends it: what comes after it isn't applied.

        Args:
            owner: the service.
            plan: what to write.
            seen: every object that has the name of one that is to be applied, as it was looked at for this plan.

        Raises:
            KubernetesError: the API server doesn't answer or is overloaded; try again later.
        """
        for handover in plan.handovers:
            await self._hand_over(handover)
        made = [await self._create_secret(owner, manifest) for manifest in plan.creates]
        failures = [failure for failure in made if failure is not None]
        for manifest in plan.applies:
            failure = await self._apply_child(owner, manifest, seen)
            if failure is not None:
                failures.append(failure)
                if failure.reason is Reason.CHILD_CONFLICT:
                    break
        for key in plan.deletes:
            await self._delete_child(key)
        return tuple(failures)

    async def _create_secret(self, owner: Owner, manifest: Json) -> ApplyFailure | None:
        """Make the Secret with a random key, unless it is there."""
        key = to_object_key(manifest)
        live = await self._client.get(SECRETS, key.namespace, key.name)
        if live is not None and not is_owned_by(live, owner.uid):
            return ApplyFailure(key, Reason.CHILD_CONFLICT, describe_conflict(key, live, owner))
        if live is None:
            data = {names.SECRET_KEY_LINKS: base64.b64encode(token_hex(LINK_KEY_BYTES).encode()).decode()}
            try:
                live = await self._client.create(SECRETS, {**manifest, "data": data})
            except ApiRefusedError as error:
                if error.is_transient or error.status == HTTPStatus.CONFLICT:  # somebody was faster: look again
                    raise
                message = f"{key} can't be made, the API server says: {error.message}; correct the spec or its quota"
                return ApplyFailure(key, Reason.APPLY_FAILED, message)
            self.writes += 1
        self._store.put_quietly(trim(live, SECRETS))
        return None

    async def _apply_child(self, owner: Owner, manifest: Json, seen: Mapping[ObjectKey, Json]) -> ApplyFailure | None:
        key = to_object_key(manifest)
        resource = RESOURCE_BY_KIND[key.kind]
        # Only what carries our label is watched; what else has the name was looked at for this plan.
        live = self._store.get(key)
        if live is None or not is_owned_by(live, owner.uid):
            live = seen.get(key)
        try:
            answer = await self._write_child(owner, resource, manifest, live)
        except ApiRefusedError as error:
            if error.is_transient or error.is_another_object:  # by now: look again
                raise
            advice = _advise_on_refusal(error, manifest)
            message = f"{key} can't be written, the API server says: {error.message}; {advice}"
            return ApplyFailure(key, Reason.APPLY_FAILED, message)
        if isinstance(answer, ApplyFailure):
            return answer
        self._store.put_quietly(trim(answer, resource))
        return None

    async def _write_child(
        self, owner: Owner, resource: Resource, manifest: Json, live: Json | None
    ) -> Json | ApplyFailure:
        """Make it where it isn't ``live``, or apply it over what is ours; what is somebody else's isn't touched."""
        key = to_object_key(manifest)
        if live is None:
            metadata = {**manifest["metadata"], "resourceVersion": NO_VERSION}
            try:
                return await self._apply(resource, {**manifest, "metadata": metadata}, is_forced=False)
            except ApiRefusedError as error:
                live = await self._client.get(resource, key.namespace, key.name) if error.is_conflict else None
                if live is None:
                    raise
        if not is_owned_by(live, owner.uid):
            return ApplyFailure(key, Reason.CHILD_CONFLICT, describe_conflict(key, live, owner))
        return await self._apply_over_others(owner, resource, manifest, live)

    async def _apply_over_others(self, owner: Owner, resource: Resource, manifest: Json, live: Json) -> Json:
        """Apply this very object; what others have set in it and excludes what we set becomes ours, and so goes.

        First those fields alone that the API server named, then all that others have set in the spec; what can't be
        changed at all and carries no pods is made anew. Raises ApiRefusedError where none of it helps.
        """
        manifest = {**manifest, "metadata": {**manifest["metadata"], "uid": live["metadata"]["uid"]}}
        for takes_all in (False, True):
            try:
                return await self._apply(resource, manifest)
            except ApiRefusedError as error:
                if error.status != HTTPStatus.UNPROCESSABLE_ENTITY or error.is_another_object:
                    raise
                await self._take_over(owner, resource, manifest, at_fault=None if takes_all else error.fields)
        try:
            return await self._apply(resource, manifest)
        except ApiRefusedError as error:
            if resource.kind not in MADE_ANEW or "immutable" not in error.message or error.is_another_object:
                raise
        return await self._make_anew(owner, resource, manifest)

    async def _apply(self, resource: Resource, manifest: Json, *, is_forced: bool = True) -> Json:
        answer = await self._client.apply(resource, manifest, is_forced=is_forced)
        self.writes += 1
        return answer

    async def _take_over(
        self, owner: Owner, resource: Resource, manifest: Json, *, at_fault: tuple[str, ...] | None
    ) -> None:
        """Make fields of others ours, and say so in an event."""
        key = to_object_key(manifest)
        live = await self._client.get(resource, key.namespace, key.name)
        takeover = take_over(live, manifest, at_fault=at_fault) if live is not None else None
        if live is None or takeover is None:
            return
        metadata = {
            "uid": live["metadata"]["uid"],
            "resourceVersion": live["metadata"]["resourceVersion"],
            "managedFields": list(takeover.managed_fields),
        }
        self.writes += 1
        await self._client.merge(resource, key.namespace, key.name, {"metadata": metadata})
        note = f"{key} couldn't be applied beside what others have set, which is undone: {', '.join(takeover.taken)}."
        await self.write_event(owner, EventPlan(EventType.WARNING, "FieldsTakenOver", "Apply", note))

    async def _make_anew(self, owner: Owner, resource: Resource, manifest: Json) -> Json:
        metadata = manifest["metadata"]
        self.writes += 1
        await self._client.delete(resource, metadata["namespace"], metadata["name"], uid=metadata["uid"])
        note = f"{to_object_key(manifest)} had been made immutable and is made anew."
        await self.write_event(owner, EventPlan(EventType.WARNING, "MadeAnew", "Apply", note))
        fresh = {name: value for name, value in metadata.items() if name != "uid"}
        return await self._apply(resource, {**manifest, "metadata": fresh})

    async def _hand_over(self, handover: Handover) -> None:
        key = handover.key
        manifest = {
            "apiVersion": DEPLOYMENTS.api_version,
            "kind": DEPLOYMENTS.kind,
            "metadata": {"namespace": key.namespace, "name": key.name},
            "spec": {"replicas": handover.replicas},
        }
        self.writes += 1
        await self._client.apply(DEPLOYMENTS, manifest, field_manager=HANDOVER_MANAGER)

    async def _delete_child(self, key: ObjectKey) -> None:
        live = self._store.get(key)
        if live is not None:
            self.writes += 1
            await self._client.delete(RESOURCE_BY_KIND[key.kind], key.namespace, key.name, uid=live["metadata"]["uid"])

    async def write_finalizers(self, service: Json, finalizers: tuple[str, ...]) -> Json | None:
        """Set the finalizers of this very version of a service and return it; None if it is gone or has changed.

        Raises KubernetesError.
        """
        metadata = service["metadata"]
        known = {name: metadata[name] for name in ("uid", "resourceVersion") if name in metadata}
        self.writes += 1
        try:
            return await self._client.merge(
                SERVICES_OF_EASEL,
                metadata["namespace"],
                metadata["name"],
                {"metadata": {**known, "finalizers": list(finalizers)}},
            )
        except ApiRefusedError as error:
            if error.status not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
                raise
            return None

    async def write_status(self, owner: Owner, patch: Json) -> Json | None:
        """Patch the status of this very service and return it; None if it is gone. Raises KubernetesError."""
        body = {"metadata": {"uid": owner.uid}, **patch}
        self.writes += 1
        try:
            return await self._client.merge(SERVICES_OF_EASEL, owner.namespace, owner.name, body, subresource="status")
        except ApiRefusedError as error:
            if not error.is_another_object:
                raise
            return None

    async def write_scale(self, namespace: str, deployment: str, replicas: int, *, uid: str) -> None:
        """Set this very Deployment's replicas through its scale subresource. Raises KubernetesError."""
        self.writes += 1
        body = {"metadata": {"uid": uid}, "spec": {"replicas": replicas}}
        await self._client.merge(DEPLOYMENTS, namespace, deployment, body, subresource="scale")

    async def write_deletion_cost(self, namespace: str, pod: str, cost: int | None) -> None:
        """Set a pod's deletion cost, or take it away. A pod that is gone is ignored. Raises KubernetesError."""
        annotations = {names.ANNOTATION_DELETION_COST: None if cost is None else str(cost)}
        self.writes += 1
        try:
            await self._client.merge(PODS, namespace, pod, {"metadata": {"annotations": annotations}})
        except ApiRefusedError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise

    async def write_renewals(self, namespace: str, renewals: tuple[Renewal, ...]) -> None:
        """Annotate pods, which has their kubelet renew their mounted files at once. It only saves time: what fails is
        logged, and tried again with the next look at the service."""
        for renewal in renewals:
            annotations = {names.ANNOTATION_LIVE_CONFIG: renewal.config_hash}
            self.writes += 1
            try:
                answer = await self._client.merge(
                    PODS, namespace, renewal.pod, {"metadata": {"annotations": annotations}}
                )
            except KubernetesError as error:
                if not (isinstance(error, ApiRefusedError) and error.status == HTTPStatus.NOT_FOUND):
                    logger.warning("Pod %s/%s renews its configuration later: %s", namespace, renewal.pod, error)
                continue
            self._store.put(trim(answer, PODS))

    async def write_event(self, owner: Owner, event: EventPlan) -> None:
        """Record an event on the service. It is news, not state: a failure is logged and forgotten."""
        now = self._clock()
        digest = hashlib.sha256(f"{event.reason}{event.note}{now.isoformat()}".encode()).hexdigest()[:12]
        body = {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"namespace": owner.namespace, "name": f"{owner.name}.{digest}"},
            "eventTime": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": REPORTING_CONTROLLER,
            "reportingInstance": self._pod_name[:128],
            "action": event.action,
            "reason": event.reason,
            "type": event.type,
            "note": shorten(event.note, MAX_NOTE_BYTES),
            "regarding": {
                "apiVersion": SERVICES_OF_EASEL.api_version,
                "kind": SERVICES_OF_EASEL.kind,
                "namespace": owner.namespace,
                "name": owner.name,
                "uid": owner.uid,
            },
        }
        self.writes += 1
        try:
            await self._client.request("POST", EVENTS.path(owner.namespace), body=body)
        except KubernetesError as error:
            logger.warning("Event %s of %s/%s wasn't recorded: %s", event.reason, owner.namespace, owner.name, error)


def _advise_on_refusal(error: ApiRefusedError, manifest: Json) -> str:
    if error.is_of_another_type and manifest["kind"] == DEPLOYMENTS.kind:  # all else of a pod was checked before
        component = manifest["metadata"]["labels"][names.LABEL_COMPONENT]
        return f"correct spec.{component}.podTemplate, or the installation's default of it"
    if error.status == HTTPStatus.UNPROCESSABLE_ENTITY or error.is_of_another_type:
        return "correct the spec"
    if "cannot " in error.message and error.status == HTTPStatus.FORBIDDEN:
        return "give the operator's ServiceAccount this right, as the chart does"
    if "quota" in error.message:
        return "raise the namespace's quota"
    return "correct the spec, or change what refuses it"
