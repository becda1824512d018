"""What the scaling loop needs decided: the pods to ask, their count, and what is worth telling the reconciler."""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final

from easel_contract.metrics import ColdStartPhase
from easel_contract.resource import ColdStartStatus, HeadroomStatus
from pydantic import ValidationError

from easel_operator.autoscaling.explanation import advise, explain_choice
from easel_operator.autoscaling.observation import Observation, PodMetrics, PodSample
from easel_operator.autoscaling.planner import Plan, PlannerState, begin_state
from easel_operator.autoscaling.replay.bank import Bank, Memory
from easel_operator.autoscaling.replay.setting import Setting
from easel_operator.autoscaling.workers import PodCounts, WorkerPod
from easel_operator.decide.facts import recall_scrape, replicas_of
from easel_operator.decide.grace import round_job_seconds
from easel_operator.decide.pod_status import PodStatus
from easel_operator.decide.snapshot import ScalingDecision, ScrapeReport
from easel_operator.objects import Json

# The time that a service's first gateway may take to come up before silence is worth a condition.
MISSING_DATA_AFTER: Final = timedelta(seconds=60)
IDLE_COST: Final = -100
MAX_PHASE_SECONDS: Final = 86400  # what is reported beyond it is taken for this
MAX_WRITES: Final = 64  # per service and tick


def count_pods(workers: tuple[PodStatus, ...], deployment: Json | None) -> PodCounts:
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


def find_waiting_since(observation: Observation, known: datetime | None) -> datetime | None:
    """Since when requests wait while no worker is ready, in whole seconds; None where either isn't so."""
    if observation.pods.ready > 0:
        return None
    if observation.queue is None:
        return known
    return (known or observation.at.replace(microsecond=0)) if observation.queue.waiting > 0 else None


def build_scrape_report(
    observation: Observation,
    data_seen_at: datetime,
    longest_job_seconds: int,
    waiting_since: datetime | None,
    cold_start: ColdStartStatus | None,
    add_on_problems: Mapping[str, str] | None,
) -> ScrapeReport:
    """What the pods reported, as far as the reconciler looks at it."""
    return ScrapeReport(
        waiting_since=waiting_since,
        is_broker_up=observation.broker_up,
        is_redis_full=observation.is_redis_full,
        is_redis_evicting=observation.is_redis_evicting,
        is_data_missing=observation.at - data_seen_at > MISSING_DATA_AFTER,
        longest_job_seconds=longest_job_seconds,
        cold_start=cold_start,
        add_on_problems=add_on_problems,
    )


def find_add_on_problems(
    workers: Iterable[PodStatus], samples: Iterable[PodSample], known: Mapping[str, str] | None
) -> Mapping[str, str] | None:
    """What ready workers say now, of all of them; ``known`` while none answers: a service that sleeps mends nothing."""
    ready = {worker.name for worker in workers if worker.is_ready}
    answers = [each.metrics for each in samples if each.metrics is not None and each.pod_name in ready]
    if not answers:
        return known
    found: dict[str, str] = {}
    for metrics in answers:
        for key, message in metrics.add_on_problems.items():
            found[key] = min(message, found.get(key, message))  # the same of several, whichever answers first
    return found


def find_longest_job_seconds(samples: Iterable[PodSample], known: int) -> int:
    """The longest job so far: ``known``, or one that a worker reports now."""
    reported = (sample.metrics.longest_job_seconds or 0 for sample in samples if sample.metrics is not None)
    return max((known, *map(round_job_seconds, reported)))


def guess_data_seen_at(service: Json, now: datetime) -> datetime:
    """Since when data is missing, as far as a replica that has just started can say."""
    return now - 2 * MISSING_DATA_AFTER if recall_scrape(service).is_data_missing else now


def recall_planner_state(service: Json, deployment: Json | None, now: datetime) -> PlannerState:
    """What to begin with: the stored decision and what was learned until then, else what the Deployment has."""
    stored: Json = service.get("status", {}).get("scaling") or {}
    replicas: int | None = stored.get("desiredReplicas")
    return begin_state(
        replicas if replicas is not None else replicas_of(deployment),
        now,
        cold_starts_seconds=stored.get("coldStartsSeconds") or (),
    )


def recall_headroom(service: Json, cold_start_seconds: float) -> Memory | None:
    """What was found by replay before a restart; None where nothing is stored, or nothing that makes sense."""
    known = {field.alias or name for name, field in HeadroomStatus.model_fields.items()}
    values = {
        name: value for name, value in _read_headroom(service).items() if name in known
    }  # a later release says more
    try:
        stored = HeadroomStatus.model_validate(values)
    except ValidationError:
        return None
    return Memory(
        Setting(
            stored.margin_percent / 100,
            max(1.0, stored.hold_seconds) / cold_start_seconds,
            max(1.0, stored.last_pod_seconds) / cold_start_seconds,
            stored.expected_arrivals_percent / 100,
        ),
        seen_seconds=60.0 * stored.seen_minutes,
        debt_jobs=float(stored.debt_requests),
        debt_of_jobs=float(stored.debt_of_requests),
    )


def build_headroom_status(bank: Bank, service: Json, cold_start_seconds: float) -> HeadroomStatus:
    """The setting in use. Until one was chosen anew after a restart, what was advised before it stands."""
    memory, choice = bank.memory, bank.choice
    advice = str(_read_headroom(service).get("advice", ""))
    if choice.tally is not None:
        advice = advise(choice, cold_start_seconds)
    return HeadroomStatus(
        margin_percent=round(100 * choice.setting.margin),
        hold_seconds=round(choice.setting.hold_cold_starts * cold_start_seconds),
        last_pod_seconds=round(choice.setting.last_pod_cold_starts * cold_start_seconds),
        expected_arrivals_percent=round(100 * choice.setting.expected_arrivals),
        reason=explain_choice(choice),
        advice=advice,
        seen_minutes=round(memory.seen_seconds / 60),
        debt_requests=round(memory.debt_jobs),
        debt_of_requests=round(memory.debt_of_jobs),
    )


def is_advised_before(service: Json, known: ScalingDecision | None) -> bool:
    """Whether it was said already that the error budget isn't kept."""
    if known is not None and known.headroom is not None:
        return bool(known.headroom.advice)
    return bool(_read_headroom(service).get("advice"))


def build_decision(
    service: Json, known: ScalingDecision | None, plan: Plan, headroom: HeadroomStatus, now: datetime
) -> ScalingDecision | None:
    """The decision to report; the known one as long as the number of workers stays, and what is advised, so that status
    changes seldom."""
    stored: int | None = (service.get("status", {}).get("scaling") or {}).get("desiredReplicas")
    last = known.desired_replicas if known is not None else stored
    if plan.desired_replicas == last and bool(headroom.advice) == is_advised_before(service, known):
        return known
    return ScalingDecision(
        desired_replicas=plan.desired_replicas,
        sentence=plan.sentence,
        decided_at=now.replace(microsecond=0),
        cold_starts_seconds=tuple(round(seconds) for seconds in plan.state.cold_starts.seconds),
        headroom=headroom,
    )


def decide_deletion_costs(
    workers: Collection[PodStatus], idle_pods: frozenset[str], *, replicas: int, desired_replicas: int
) -> dict[str, int | None]:
    """Which pods a ReplicaSet should remove first: the costs to write, by pod name, before ``desired_replicas`` is
    published; None takes the annotation away.

    It compares the annotation pod-deletion-cost before age, so it must be right at the moment when the number falls; at
    any other time nobody reads it, and it isn't written.
    https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/#pod-deletion-cost

    Empty unless the number of pods falls. A busy pod that was idle once costs as much as any other again.
    """
    if desired_replicas >= replicas:
        return {}
    wanted = {worker.name: IDLE_COST if worker.name in idle_pods else None for worker in workers}
    # Busy pods first: to lose one of them is what this is about.
    changed = sorted(
        (worker for worker in workers if worker.deletion_cost != wanted[worker.name]),
        key=lambda worker: (worker.deletion_cost is None, worker.name),
    )
    return {worker.name: wanted[worker.name] for worker in changed[:MAX_WRITES]}


def find_cold_start(
    workers: Iterable[PodStatus], samples: Iterable[PodSample], known: ColdStartStatus | None
) -> ColdStartStatus | None:
    """The start of the worker that became ready last; ``known``, if none has since."""
    answers = {sample.pod_name: sample.metrics for sample in samples if sample.metrics and sample.metrics.start_phases}
    ready = [(pod.ready_at, pod.name, pod) for pod in workers if pod.ready_at is not None and pod.name in answers]
    if not ready:
        return known
    ready_at, name, pod = max(ready, key=lambda each: each[:2])
    if known is not None and known.ready_at >= ready_at:
        return known
    return _build_cold_start(pod, ready_at, answers[name])


def _build_cold_start(pod: PodStatus, ready_at: datetime, metrics: PodMetrics) -> ColdStartStatus:
    """A worker that was started again in its container, or a container that was, waited for no node and no image."""
    placed_at = pod.scheduled_at if not metrics.restarts else None
    phases = metrics.start_phases
    return ColdStartStatus(
        pod_name=pod.name,
        ready_at=ready_at,
        scheduled_seconds=_between(pod.created_at, placed_at if pod.first_started_at else None),
        pulled_seconds=_between(placed_at, pod.first_started_at),
        imported_seconds=_round_phase(phases, ColdStartPhase.IMPORTED),
        weights_seconds=_round_phase(phases, ColdStartPhase.WEIGHTS),
        compiled_seconds=_round_phase(phases, ColdStartPhase.COMPILED),
        warm_seconds=_round_phase(phases, ColdStartPhase.WARM),
    )


def _between(begin: datetime | None, end: datetime | None) -> int | None:
    if begin is None or end is None:
        return None
    return min(MAX_PHASE_SECONDS, max(0, round((end - begin).total_seconds())))


def _round_phase(phases: Mapping[str, float], phase: ColdStartPhase) -> int | None:
    seconds = phases.get(phase)
    return None if seconds is None else min(MAX_PHASE_SECONDS, round(seconds))


def _read_headroom(service: Json) -> Json:
    stored: Json = (service.get("status", {}).get("scaling") or {}).get("headroom") or {}
    return stored
