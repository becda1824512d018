"""The snapshot, read once: the parsed resource, its pods' facts and its main children. Conditions look at this."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from easel_contract import names
from easel_contract.conditions import ConditionType, Reason
from easel_contract.resource import ColdStartStatus, StableDiffusionServiceSpec
from pydantic import ValidationError

from easel_operator.autoscaling.cold_starts import ColdStarts, recall_cold_starts, round_for_gateways
from easel_operator.decide.grace import recall_longest_job_seconds
from easel_operator.decide.pod_status import Eviction, PodProblem, PodStatus, read_evictions, read_pods
from easel_operator.decide.references import SHARED_MODES, Reference, list_references
from easel_operator.decide.scaling_mode import ModeDecision
from easel_operator.decide.snapshot import FetchProgress, ScrapeReport, Snapshot
from easel_operator.manifests.configuration import config_map_name, read_announced_cold_start_seconds
from easel_operator.manifests.metadata import Owner
from easel_operator.objects import Json, ObjectKey, find_condition, is_owned_by


@dataclass(frozen=True)
class ModelFetch:
    """A cache that isn't filled yet."""

    message: str
    problem: PodProblem | None  # what keeps it from being filled until somebody acts
    progress: FetchProgress | None = None  # None: its Job hasn't said yet


@dataclass(frozen=True)
class ServiceFacts:
    """What the conditions of one service are decided from."""

    owner: Owner
    spec: StableDiffusionServiceSpec
    mode: ModeDecision
    gateways: tuple[PodStatus, ...]
    workers: tuple[PodStatus, ...]
    gateway_deployment: Json | None
    worker_deployment: Json | None
    autoscaler: Json | None
    scrape: ScrapeReport
    now: datetime
    was_asleep: bool  # the last status said Ready=True, ScaledToZero or Waking
    was_complete: bool  # the last status said of this generation that its pods are there
    start_timeout_seconds: float  # after which a waking service is no longer believed to wake
    missing: tuple[Reference, ...]
    has_exclusive_claims: bool  # workers mount one that may be on one node only: a second pod would wait there for ever
    wanted_revisions: Mapping[str, str]  # what the spec asks for, by component
    is_applied: bool  # all children are as the spec asks
    cold_start_seconds: int  # as gateways hear of it
    evictions: Mapping[str, tuple[Eviction, ...]] = field(default_factory=dict)  # by component
    model_fetch: ModelFetch | None = None  # while workers of the wanted model wait for its cache

    @property
    def ready_workers(self) -> int:
        """Workers that hold the model and take work."""
        return sum(worker.is_ready for worker in self.workers)

    @property
    def wanted_workers(self) -> int | None:
        """Replicas that the worker Deployment asks for; None while it doesn't exist."""
        return replicas_of(self.worker_deployment)

    @property
    def is_rolled_out(self) -> bool:
        """Whether no pod of an earlier spec is left."""
        return self.is_applied and all(
            deployment is not None and not has_earlier_pods(deployment)
            for deployment in (self.gateway_deployment, self.worker_deployment)
        )

    def pods_of(self, component: str) -> tuple[PodStatus, ...]:
        """The gateways, or the workers."""
        return self.gateways if component == names.COMPONENT_GATEWAY else self.workers

    def deployment_of(self, component: str) -> Json | None:
        """The component's Deployment, if it is the service's own."""
        return self.gateway_deployment if component == names.COMPONENT_GATEWAY else self.worker_deployment

    def earlier_ready_pods(self, component: str) -> tuple[PodStatus, ...]:
        """Ready pods that another template than the wanted one made."""
        wanted = self.wanted_revisions.get(component)
        return tuple(pod for pod in self.pods_of(component) if pod.is_ready and pod.revision != wanted)


def read_facts(snapshot: Snapshot, owner: Owner, spec: StableDiffusionServiceSpec, mode: ModeDecision) -> ServiceFacts:
    """Read the snapshot once for all conditions; what depends on the wanted children is added by decide()."""

    def child(kind: str, name: str) -> Json | None:
        live = snapshot.children.get(ObjectKey(kind, owner.namespace, name))
        return live if live is not None and is_owned_by(live, owner.uid) else None

    def pods(component: str, deployment: str) -> tuple[PodStatus, ...]:
        live = snapshot.children.get(ObjectKey("Deployment", owner.namespace, deployment))
        is_foreign = live is not None and not is_owned_by(live, owner.uid)
        return () if is_foreign else read_pods(snapshot.pods, component, snapshot.now)

    return ServiceFacts(
        owner=owner,
        spec=spec,
        mode=mode,
        gateways=pods(names.COMPONENT_GATEWAY, names.gateway_name(owner.name)),
        workers=pods(names.COMPONENT_WORKER, names.worker_name(owner.name)),
        gateway_deployment=child("Deployment", names.gateway_name(owner.name)),
        worker_deployment=child("Deployment", names.worker_name(owner.name)),
        autoscaler=child("HorizontalPodAutoscaler", names.worker_name(owner.name)),
        scrape=snapshot.scrape or recall_scrape(snapshot.service),
        now=snapshot.now,
        was_asleep=_was_asleep(snapshot.service),
        was_complete=_was_complete(snapshot.service),
        start_timeout_seconds=_recall_cold_starts(snapshot).start_up.timeout_seconds,
        missing=tuple(
            each
            for each in list_references(owner.namespace, spec, snapshot.release.defaults)
            if each.key in snapshot.missing
        ),
        has_exclusive_claims=_has_exclusive_claims(snapshot, owner, spec),
        wanted_revisions={},
        is_applied=False,
        evictions={
            component: read_evictions(snapshot.pods, component, snapshot.now)
            for component in (names.COMPONENT_GATEWAY, names.COMPONENT_WORKER)
        },
        cold_start_seconds=round_for_gateways(
            _recall_cold_starts(snapshot).median_seconds,
            read_announced_cold_start_seconds(child("ConfigMap", config_map_name(owner))),
        ),
    )


def _has_exclusive_claims(snapshot: Snapshot, owner: Owner, spec: StableDiffusionServiceSpec) -> bool:
    cache = spec.model.cache
    if cache is not None and cache.claim_name is None and SHARED_MODES.isdisjoint(cache.access_modes):
        return True
    return any(
        each.key.kind == "PersistentVolumeClaim"
        and each.component == names.COMPONENT_WORKER
        and each.key not in snapshot.shared_claims
        for each in list_references(owner.namespace, spec, snapshot.release.defaults)
    )


def find_problem(pods: tuple[PodStatus, ...]) -> PodProblem | None:
    """The first pod's problem, by name, so that the message doesn't jump between pods."""
    problems = [(pod.name, pod.problem) for pod in pods if pod.problem is not None]
    return min(problems, key=lambda each: each[0])[1] if problems else None


def find_eviction(facts: ServiceFacts, component: str) -> PodProblem | None:
    """Why the kubelet ended the wanted revision's newest evicted pod, until one that was made after it is ready."""
    wanted = facts.wanted_revisions.get(component)
    newest = next((each for each in facts.evictions.get(component, ()) if wanted in (None, each.revision)), None)
    if newest is None:
        return None
    ready = [pod.created_at for pod in facts.pods_of(component) if pod.is_ready and pod.created_at is not None]
    is_replaced = newest.created_at is None or any(created_at > newest.created_at for created_at in ready)
    return None if is_replaced else newest.problem


def replicas_of(deployment: Json | None) -> int | None:
    """spec.replicas of a Deployment, None if there is no Deployment."""
    if deployment is None:
        return None
    replicas: int = deployment.get("spec", {}).get("replicas", 1)
    return replicas


def recall_scrape(service: Json) -> ScrapeReport:
    """What the stored conditions still say of the pods' last answers: a restart of the operator is no news."""
    return ScrapeReport(
        is_redis_full=_has_reason(service, ConditionType.READY, Reason.REDIS_FULL),
        is_broker_up=False if _has_reason(service, ConditionType.READY, Reason.REDIS_UNAVAILABLE) else None,
        is_redis_evicting=_has_reason(service, ConditionType.READY, Reason.REDIS_EVICTS),
        is_data_missing=_has_reason(service, ConditionType.SCALING_ACTIVE, Reason.METRICS_UNAVAILABLE),
        longest_job_seconds=recall_longest_job_seconds(service),
        cold_start=recall_cold_start(service),
    )


def recall_cold_start(service: Json) -> ColdStartStatus | None:
    """What the stored status says; None if it says nothing, or nothing that this version understands."""
    try:
        return ColdStartStatus.model_validate(service.get("status", {}).get("coldStart"))
    except ValidationError:
        return None


def has_earlier_pods(deployment: Json) -> bool:
    """Whether pods of an earlier template are left, or the newest one hasn't been looked at; the first has none."""
    if deployment["metadata"].get("generation") == 1:
        return False
    status: Json = deployment.get("status", {})
    if status.get("observedGeneration", 0) < deployment["metadata"].get("generation", 0):
        return True
    return bool(status.get("replicas", 0) > status.get("updatedReplicas", 0))


def _was_asleep(service: Json) -> bool:
    condition = find_condition(service, ConditionType.READY)
    return (
        condition is not None
        and condition["status"] == "True"
        and condition["reason"] in (Reason.SCALED_TO_ZERO, Reason.WAKING)
    )


def _was_complete(service: Json) -> bool:
    condition = find_condition(service, ConditionType.PROGRESSING)
    generation = service["metadata"].get("generation", 0)
    return (
        condition is not None
        and condition["reason"] == Reason.COMPLETE
        and condition.get("observedGeneration", generation) == generation
    )


def _recall_cold_starts(snapshot: Snapshot) -> ColdStarts:
    stored: Json = snapshot.service.get("status", {}).get("scaling") or {}
    seconds = snapshot.scaling.cold_starts_seconds if snapshot.scaling else stored.get("coldStartsSeconds") or ()
    return recall_cold_starts(seconds)


def _has_reason(service: Json, kind: ConditionType, reason: Reason) -> bool:
    condition = find_condition(service, kind)
    return condition is not None and condition["reason"] == reason
