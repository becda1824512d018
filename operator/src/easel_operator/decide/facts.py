"""The snapshot, read once: the parsed resource, its pods' facts and its main children. Conditions look at this."""

from dataclasses import dataclass
from datetime import datetime

from easel_contract import names
from easel_contract.conditions import ConditionType, Reason
from easel_contract.resource import StableDiffusionServiceSpec

from easel_operator.decide.grace import recall_longest_job_seconds
from easel_operator.decide.pod_status import PodProblem, PodStatus, read_pods
from easel_operator.decide.scaling_mode import ModeDecision
from easel_operator.decide.snapshot import ScrapeReport, Snapshot
from easel_operator.manifests.metadata import Owner
from easel_operator.objects import Json, ObjectKey, find_condition


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
    was_scaled_to_zero: bool  # the last status said Ready=True, ScaledToZero

    @property
    def ready_workers(self) -> int:
        """Workers that hold the model and take work."""
        return sum(worker.is_ready for worker in self.workers)

    @property
    def wanted_workers(self) -> int | None:
        """Replicas that the worker Deployment asks for; None while it doesn't exist."""
        return replicas_of(self.worker_deployment)

    @property
    def unschedulable_workers(self) -> tuple[PodStatus, ...]:
        """Workers that no node can take."""
        return tuple(worker for worker in self.workers if worker.unschedulable_message is not None)


def read_facts(snapshot: Snapshot, owner: Owner, spec: StableDiffusionServiceSpec, mode: ModeDecision) -> ServiceFacts:
    """Read the snapshot once for all conditions."""

    def child(kind: str, name: str) -> Json | None:
        return snapshot.children.get(ObjectKey(kind, owner.namespace, name))

    return ServiceFacts(
        owner=owner,
        spec=spec,
        mode=mode,
        gateways=read_pods(snapshot.pods, names.COMPONENT_GATEWAY, snapshot.now),
        workers=read_pods(snapshot.pods, names.COMPONENT_WORKER, snapshot.now),
        gateway_deployment=child("Deployment", names.gateway_name(owner.name)),
        worker_deployment=child("Deployment", names.worker_name(owner.name)),
        autoscaler=child("HorizontalPodAutoscaler", names.worker_name(owner.name)),
        scrape=snapshot.scrape or recall_scrape(snapshot.service),
        now=snapshot.now,
        was_scaled_to_zero=_was_scaled_to_zero(snapshot.service),
    )


def find_problem(pods: tuple[PodStatus, ...]) -> PodProblem | None:
    """The first pod's problem, by name, so that the message doesn't jump between pods."""
    problems = [(pod.name, pod.problem) for pod in pods if pod.problem is not None]
    return min(problems, key=lambda each: each[0])[1] if problems else None


def replicas_of(deployment: Json | None) -> int | None:
    """spec.replicas of a Deployment, None if there is no Deployment."""
    if deployment is None:
        return None
    replicas: int = deployment.get("spec", {}).get("replicas", 1)
    return replicas


def recall_scrape(service: Json) -> ScrapeReport:
    """What the stored conditions still say of the pods' last answers: a restart of the operator is no news."""
    return ScrapeReport(
        is_broker_up=False if _has_reason(service, ConditionType.READY, Reason.REDIS_UNAVAILABLE) else None,
        is_data_missing=_has_reason(service, ConditionType.SCALING_ACTIVE, Reason.METRICS_UNAVAILABLE),
        longest_job_seconds=recall_longest_job_seconds(service),
    )


def _was_scaled_to_zero(service: Json) -> bool:
    condition = find_condition(service, ConditionType.READY)
    return condition is not None and condition["status"] == "True" and condition["reason"] == Reason.SCALED_TO_ZERO


def _has_reason(service: Json, kind: ConditionType, reason: Reason) -> bool:
    condition = find_condition(service, kind)
    return condition is not None and condition["reason"] == reason
