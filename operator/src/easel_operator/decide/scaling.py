"""What the scaling loop needs decided: the pods to ask, their count, and what is worth telling the reconciler."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from easel_operator.autoscaling.observation import Observation, PodCounts
from easel_operator.autoscaling.planner import Plan
from easel_operator.decide.facts import recall_scrape, replicas_of
from easel_operator.decide.pods import PodFacts
from easel_operator.decide.snapshot import ScalingDecision, ScrapeReport
from easel_operator.objects import Json

# The time that a service's first gateway may take to come up before silence is worth a condition.
MISSING_DATA_AFTER: Final = timedelta(seconds=60)


def count_pods(workers: tuple[PodFacts, ...], deployment: Json | None) -> PodCounts:
    """The workers as the planner counts them."""
    ready = sum(worker.is_ready for worker in workers)
    scheduled = sum(worker.is_scheduled for worker in workers)
    return PodCounts(
        desired=replicas_of(deployment) or 0,
        existing=len(workers),
        ready=ready,
        starting=max(0, scheduled - ready),
        unschedulable=sum(worker.unschedulable_message is not None for worker in workers),
    )


def find_reachable(pods: Iterable[PodFacts]) -> tuple[PodFacts, ...]:
    """Pods that can be asked: those with an address. One that is still loading answers nothing, which is no harm."""
    return tuple(pod for pod in pods if pod.address is not None)


def build_scrape_report(observation: Observation, data_seen_at: datetime) -> ScrapeReport:
    """What the pods told, as far as conditions speak of it."""
    return ScrapeReport(
        is_broker_up=observation.broker_up,
        is_data_missing=observation.at - data_seen_at > MISSING_DATA_AFTER,
    )


def guess_data_seen_at(service: Json, now: datetime) -> datetime:
    """Since when data is missing, as far as a replica that has just started can tell."""
    return now - 2 * MISSING_DATA_AFTER if recall_scrape(service).is_data_missing else now


def find_stored_replicas(service: Json, deployment: Json | None) -> int | None:
    """The number to begin with after a restart: the last decision, else what the Deployment has."""
    stored: int | None = (service.get("status", {}).get("scaling") or {}).get("desiredReplicas")
    return stored if stored is not None else replicas_of(deployment)


def build_decision(service: Json, known: ScalingDecision | None, plan: Plan, now: datetime) -> ScalingDecision | None:
    """The decision to report; the known one as long as the number of workers stays, so that status changes seldom."""
    stored: int | None = (service.get("status", {}).get("scaling") or {}).get("desiredReplicas")
    last = known.desired_replicas if known is not None else stored
    if plan.desired_replicas == last:
        return known
    return ScalingDecision(plan.desired_replicas, plan.sentence, now.replace(microsecond=0))
