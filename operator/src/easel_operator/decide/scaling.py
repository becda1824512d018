"""What the scaling loop needs decided: the pods to ask, their count, and what is worth telling the reconciler."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from easel_operator.autoscaling.lateness import FIRST_MARGIN
from easel_operator.autoscaling.observation import Observation, PodSample
from easel_operator.autoscaling.planner import History, Plan, begin_history
from easel_operator.autoscaling.pods import PodCounts, WorkerPod
from easel_operator.decide.facts import recall_scrape, replicas_of
from easel_operator.decide.grace import round_job_seconds
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
        workers=tuple(
            WorkerPod(worker.name, worker.created_at, worker.ready_at, is_scheduled=worker.is_scheduled)
            for worker in workers
            if worker.created_at is not None
        ),
        is_rolling_out=_is_rolling_out(deployment),
    )


def _is_rolling_out(deployment: Json | None) -> bool:
    """Whether pods of an earlier template are left."""
    status: Json = (deployment or {}).get("status", {})
    return bool(status.get("replicas", 0) > status.get("updatedReplicas", 0))


def find_reachable(pods: Iterable[PodFacts]) -> tuple[PodFacts, ...]:
    """Pods that can be asked: those with an address. One that is still loading answers nothing, which is no harm."""
    return tuple(pod for pod in pods if pod.address is not None)


def build_scrape_report(observation: Observation, data_seen_at: datetime, longest_job_seconds: int) -> ScrapeReport:
    """What the pods told, as far as the reconciler looks at it."""
    return ScrapeReport(
        is_broker_up=observation.broker_up,
        is_data_missing=observation.at - data_seen_at > MISSING_DATA_AFTER,
        longest_job_seconds=longest_job_seconds,
    )


def find_longest_job_seconds(samples: Iterable[PodSample], known: int) -> int:
    """The longest job so far: ``known``, or one that a worker tells of now."""
    told = (sample.metrics.longest_job_seconds or 0 for sample in samples if sample.metrics is not None)
    return max((known, *map(round_job_seconds, told)))


def guess_data_seen_at(service: Json, now: datetime) -> datetime:
    """Since when data is missing, as far as a replica that has just started can tell."""
    return now - 2 * MISSING_DATA_AFTER if recall_scrape(service).is_data_missing else now


def recall_history(service: Json, deployment: Json | None, now: datetime) -> History:
    """What to begin with: the stored decision and what was learned until then, else what the Deployment has."""
    stored: Json = service.get("status", {}).get("scaling") or {}
    replicas: int | None = stored.get("desiredReplicas")
    return begin_history(
        replicas if replicas is not None else replicas_of(deployment),
        now,
        cold_starts_seconds=stored.get("coldStartsSeconds") or (),
        lateness_margin=stored.get("latenessMarginPercent", 100 * FIRST_MARGIN) / 100,
    )


def build_decision(service: Json, known: ScalingDecision | None, plan: Plan, now: datetime) -> ScalingDecision | None:
    """The decision to report; the known one as long as the number of workers stays, so that status changes seldom."""
    stored: int | None = (service.get("status", {}).get("scaling") or {}).get("desiredReplicas")
    last = known.desired_replicas if known is not None else stored
    if plan.desired_replicas == last:
        return known
    return ScalingDecision(
        desired_replicas=plan.desired_replicas,
        sentence=plan.sentence,
        decided_at=now.replace(microsecond=0),
        cold_starts_seconds=tuple(round(seconds) for seconds in plan.history.cold_starts.seconds),
        lateness_margin_percent=round(100 * plan.history.budget.lasting),
    )
