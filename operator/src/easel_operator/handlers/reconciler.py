"""Works the queue off: gather a snapshot, decide, write. Decides from state, never from the event that woke it."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final

from easel_contract import names
from easel_contract.conditions import ConditionType, Reason

from easel_operator.cluster.client import ApiRefusedError, KubernetesClient, KubernetesError
from easel_operator.cluster.informer import trim
from easel_operator.cluster.object_store import ObjectStore
from easel_operator.cluster.writer import ClusterWriter
from easel_operator.decide.reconcile import decide
from easel_operator.decide.reports import report_fault, report_forbidden
from easel_operator.decide.rollouts.history import RevisionQuery, find_runs, read_runs
from easel_operator.decide.snapshot import ReconcilePlan, Snapshot, Standing
from easel_operator.handlers.references import ReferenceLookups
from easel_operator.handlers.service_store import ServiceStore
from easel_operator.handlers.shared_state import RolloutTurns, SharedState
from easel_operator.handlers.tenancy.secrets_access import SecretsAccess
from easel_operator.handlers.work_queue import WorkQueue
from easel_operator.logs import logged_for
from easel_operator.manifests.metadata import Release, read_owner
from easel_operator.objects import (
    CHILD_RESOURCES,
    DEPLOYMENTS,
    POD_MAKERS,
    REPLICA_SETS,
    RESOURCE_BY_KIND,
    SECRETS,
    SERVICES_OF_EASEL,
    Json,
    ObjectKey,
    ServiceKey,
    find_condition,
    to_object_key,
    to_service_key,
)
from easel_operator.operator_metrics import FAULTS, RECONCILE_SECONDS, RECONCILES

logger = logging.getLogger(__name__)

# Secrets are never listed or watched, which would let the operator read everybody's: our own is read at a reconcile, at
# most this often. A lost one is found with the next sign of life of any other child, or at the resync.
SECRET_CHECK_SECONDS: Final = 5.0
NEVER: Final = datetime.min.replace(tzinfo=UTC)


class Reconciler:
    """Keeps each service's children and status as decided."""

    def __init__(
        self,
        *,
        client: KubernetesClient,
        writer: ClusterWriter,
        services: ServiceStore,
        references: ReferenceLookups,
        access: SecretsAccess,
        children: ObjectStore,
        shared: SharedState,
        queue: WorkQueue,
        turns: RolloutTurns,
        release: Release,
        clock: Callable[[], datetime],
    ) -> None:
        self._client = client
        self._writer = writer
        self._services = services
        self._references = references
        self._access = access
        self._children = children
        self._shared = shared
        self._queue = queue
        self._turns = turns
        self._release = release
        self._clock = clock
        self._secrets_checked_at: dict[ServiceKey, datetime] = {}
        self._earlier_runs: dict[ServiceKey, str] = {}

    def use_redis(self, url: str, authorities: str = "", users_key: str = "", users_refusal: str = "") -> None:
        """From now on services are given this URL, with a user of their own if there is a key (see Release)."""
        self._release = replace(
            self._release,
            redis_url=url,
            redis_authorities=authorities,
            redis_users_key=users_key,
            redis_users_refusal=users_refusal,
        )

    async def run(self, concurrency: int) -> None:
        """Work the queue off for ever, ``concurrency`` services at a time."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(concurrency):
                tasks.create_task(self._work())

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            with logged_for(key):
                await self._work_on(key)

    async def _work_on(self, key: ServiceKey) -> None:
        started = time.perf_counter()
        try:
            is_settled = await self.reconcile(key)
        except KubernetesError as error:
            delay_seconds = self._queue.retry(key)
            RECONCILES.labels("error").inc()
            logger.warning("Reconciling %s failed, trying again in %.1f s: %s", key, delay_seconds, error)
            return
        except Exception as error:
            # What goes wrong with one service is its own affair: the others go on being looked after.
            logger.exception("Reconciling %s met a fault of the operator's own, trying again later", key)
            await self._report_fault(key, error)
            self._queue.retry(key)
            return
        RECONCILE_SECONDS.observe(time.perf_counter() - started)
        RECONCILES.labels("settled" if is_settled else "refused").inc()
        if is_settled:
            self._queue.done(key)
        else:
            self._queue.retry(key)

    async def reconcile(self, key: ServiceKey) -> bool:
        """Bring one service to what its spec asks for; False if a child was refused and is worth another try.

        Raises:
            KubernetesError: the API server doesn't answer; nothing is known about what was written.
        """
        service = self._services.get(key)
        if service is None:
            self._forget(key)
            return True
        try:
            await self._access.grant(key.namespace)
            return await self._bring_about(key, service)
        except ApiRefusedError as error:
            if error.status == HTTPStatus.FORBIDDEN and SECRETS.plural in error.message:
                self._access.doubt(key.namespace)
                await self._write_report(service, report_forbidden(service, error.message, self._now()))
            raise

    def _now(self) -> datetime:
        return self._clock().replace(microsecond=0)  # metav1.Time has whole seconds

    async def _bring_about(self, key: ServiceKey, service: Json) -> bool:
        await self._read_unknown_secrets(key, service)
        await self._references.check(key, service)
        await self._find_earlier_runs(key, service)
        snapshot = self._gather(key, service)
        plan = decide(snapshot)
        if plan.finalizers is not None or plan.creates or _find_new(snapshot, plan):
            # The watch may be behind: children of a service that is gone must not be made anew.
            live = await self._client.get(SERVICES_OF_EASEL, key.namespace, key.name)
            if live is None:
                self._services.forget(key)
                return True
            self._services.put_quietly(live)
            taken = await self._find_taken_names(snapshot, plan)
            if taken or live["metadata"]["resourceVersion"] != service["metadata"]["resourceVersion"]:
                snapshot = replace(snapshot, service=live, children={**snapshot.children, **taken})
                plan = decide(snapshot)
        is_settled = await self._write(key, snapshot, plan)
        await self._check_secrets(key, service)
        return is_settled

    async def _report_fault(self, key: ServiceKey, error: Exception) -> None:
        RECONCILES.labels("fault").inc()
        FAULTS.labels("reconcile").inc()
        service = self._services.get(key)
        if service is None:
            return
        self._turns.report(key, Standing())  # what nobody can look at keeps no others waiting
        try:
            plan = report_fault(service, error, self._now())
            await self._write_report(service, plan)
        except Exception:
            logger.exception("Nor could the status of %s say so", key)

    async def _find_taken_names(self, snapshot: Snapshot, plan: ReconcilePlan) -> dict[ObjectKey, Json]:
        """What has a name that something new which makes pods is to have: it isn't watched without our label.

        They are looked at before the first is written, as one that is taken stops the others too. Whoever has the name
        of a child that is written before these is found by writing, which leaves theirs alone and ends there; once the
        status says so, all are looked at, and nothing is tried.
        """
        progressing = find_condition(snapshot.service, ConditionType.PROGRESSING)
        is_stopped = progressing is not None and progressing["reason"] == Reason.CHILD_CONFLICT
        kinds = {resource.kind for resource in (CHILD_RESOURCES if is_stopped else POD_MAKERS)}
        new = [key for key in _find_new(snapshot, plan) if key.kind in kinds]
        looks = [self._client.get(RESOURCE_BY_KIND[key.kind], key.namespace, key.name) for key in new]
        found = zip(new, await asyncio.gather(*looks), strict=True)
        return {key: trim(live, RESOURCE_BY_KIND[key.kind]) for key, live in found if live is not None}

    async def _write(self, key: ServiceKey, snapshot: Snapshot, plan: ReconcilePlan) -> bool:
        owner = read_owner(snapshot.service)
        if plan.finalizers is not None and not await self._write_finalizers(snapshot.service, plan.finalizers):
            return False
        failures = await self._writer.write_children(owner, plan, snapshot.children)
        if any(failure.key.kind == SECRETS.kind for failure in failures):
            self._access.doubt(key.namespace)
        if plan.creates or plan.applies:
            # The status is said of what was written, not of what was there before.
            plan = decide(replace(self._gather(key, snapshot.service), failures=failures))
            if not failures and (plan.creates or plan.applies):  # the answer isn't what was asked for: others write too
                self._queue.add(key)
        if plan.renewals:
            await self._writer.write_renewals(key.namespace, plan.renewals)
        self._turns.report(key, plan.standing)
        await self._write_report(snapshot.service, plan)
        at = plan.look_again_at
        self._queue.add_later(key, (at - self._clock()).total_seconds() if at is not None else None)
        return not failures and not plan.conflicts

    async def _write_report(self, service: Json, plan: ReconcilePlan) -> None:
        """What a plan says to users: status and events."""
        owner = read_owner(service)
        if plan.status_patch is not None:
            written = await self._writer.write_status(owner, plan.status_patch)
            if written is not None:
                # Ahead of the watch, so that the next look doesn't take its own news for new.
                self._services.put(written)
        for event in plan.events:
            await self._writer.write_event(owner, event)

    async def _write_finalizers(self, service: Json, finalizers: tuple[str, ...]) -> bool:
        """Take away what an earlier release has set. False: the service has changed since."""
        try:
            written = await self._writer.write_finalizers(service, finalizers)
        except ApiRefusedError as error:
            if error.is_transient:
                raise
            logger.warning("%s is served, and keeps its finalizer: %s", to_service_key(service), error)
            return True
        if written is not None:
            self._services.put(written)
        return written is not None

    def _gather(self, key: ServiceKey, service: Json) -> Snapshot:
        owned = self._children.of(key)
        return Snapshot(
            service=service,
            children={child: body for child, body in owned.items() if child.kind != "Pod"},
            pods=tuple(body for child, body in sorted(owned.items()) if child.kind == "Pod"),
            capabilities=self._shared.capabilities,
            release=self._release,
            now=self._now(),
            scaling=self._shared.decisions.get(key),
            tally=self._shared.tallies.get(key),
            scrape=self._shared.scrapes.get(key),
            fetch=self._shared.fetches.get(key),
            has_turn=self._turns.has_turn(key),
            earlier_runs=self._earlier_runs.get(key, ""),
            missing=self._references.missing,
            shared_claims=self._references.shared_claims,
        )

    def _forget(self, key: ServiceKey) -> None:
        self._shared.forget(key)
        self._turns.forget(key)
        self._references.forget(key)
        self._queue.add_later(key, None)
        self._secrets_checked_at.pop(key, None)
        self._earlier_runs.pop(key, None)
        for secret in _own_secrets(key, with_links=True):  # they aren't watched, so nobody else reports their end
            self._children.remove(secret)

    async def _find_earlier_runs(self, key: ServiceKey, service: Json) -> None:
        """What the revision ran that the service is to go back to: its ReplicaSets have it, which aren't watched and
        are listed only while the Deployment isn't there yet."""
        live = self._children.get(ObjectKey(DEPLOYMENTS.kind, key.namespace, names.worker_name(key.name)))
        runs = find_runs(service, live)
        if isinstance(runs, RevisionQuery):
            selector = f"{names.LABEL_SERVICE}={key.name},{names.LABEL_COMPONENT}={names.COMPONENT_WORKER}"
            found, _ = await self._client.list_all(REPLICA_SETS, key.namespace, label_selector=selector)
            runs = read_runs(found, runs)
        if runs:
            self._earlier_runs[key] = runs
        else:
            self._earlier_runs.pop(key, None)

    async def _read_unknown_secrets(self, key: ServiceKey, service: Json) -> None:
        """After a restart, say; a service that has nothing yet has none, and if it has, writing finds it."""
        if self._children.of(key) and any(self._children.get(each) is None for each in _list_secrets(key, service)):
            await self._read_secrets(key, service, self._children.put_quietly)
        self._secrets_checked_at.setdefault(key, self._clock())

    async def _check_secrets(self, key: ServiceKey, service: Json) -> None:
        """Read the service's own Secrets, unless that was a moment ago; it is woken where there is news of them."""
        if (self._clock() - self._secrets_checked_at.get(key, NEVER)).total_seconds() >= SECRET_CHECK_SECONDS:
            await self._read_secrets(key, service, self._children.put)

    async def _read_secrets(self, key: ServiceKey, service: Json, take: Callable[[Json], None]) -> None:
        for secret in _list_secrets(key, service):
            body = await self._client.get(SECRETS, secret.namespace, secret.name)
            if body is None:
                self._children.remove(secret)
            else:
                take(trim(body, SECRETS))
        self._secrets_checked_at[key] = self._clock()


def _find_new(snapshot: Snapshot, plan: ReconcilePlan) -> list[ObjectKey]:
    """The children that the plan makes."""
    keys = [to_object_key(manifest) for manifest in (*plan.creates, *plan.applies)]
    return [key for key in keys if key not in snapshot.children]


def _list_secrets(key: ServiceKey, service: Json) -> tuple[ObjectKey, ...]:
    """Those that the service is to have."""
    has_keys = bool((service.get("spec", {}).get("gateway") or {}).get("apiKeysSecretName"))
    return _own_secrets(key, with_links=has_keys)


def _own_secrets(key: ServiceKey, *, with_links: bool) -> tuple[ObjectKey, ...]:
    own = (names.redis_secret_name(key.name), *((names.links_secret_name(key.name),) if with_links else ()))
    return tuple(ObjectKey(SECRETS.kind, key.namespace, name) for name in own)
