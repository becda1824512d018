"""How many workers a service should have, and why in one sentence. The HorizontalPodAutoscaler carries it out.

Each signal proposes a number of pods; the same guards apply to each, and the largest is the decision. The guards:

- missing data: every proposal stays as it was, and the clocks of the other guards stand still; the data's age is
  published, so that readers can tell.
- hold: a pod is given up only after scaleDownAfterSeconds without need of it.
- zero: the last pod is given up only after scaleToZeroAfterSeconds without any request, and only if minReplicas is 0.
  While the only pods are still loading their model that time doesn't run (LOADING_PATIENCE at most): a new service is
  shown to work once before it sleeps, and a pod that was woken isn't thrown away just before it is of use.
- capacity: while pods can't be scheduled, no more than those already ordered. Not fewer: a pending pod is what makes
  a cluster autoscaler add a node, and taking it back would end the shortage on paper, and order it again.
- minReplicas and maxReplicas, last.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from easel_contract import metrics
from easel_contract.resource import ScalingSpec

from easel_operator.autoscaling.hold import Hold, Want
from easel_operator.autoscaling.observation import Observation, PodCounts
from easel_operator.autoscaling.signals import LatencyState, Load, Proposal, propose_for_latency, propose_for_queue

QUEUE = metrics.EXTERNAL_REPLICAS_FOR_QUEUE
LATENCY = metrics.EXTERNAL_REPLICAS_FOR_LATENCY
LOADING_PATIENCE: Final = timedelta(minutes=10)
LONGEST_TICK: Final = timedelta(seconds=15)  # beyond it the operator stalled


@dataclass(frozen=True, slots=True)
class History:
    """What the planner remembers of a service from tick to tick."""

    last_work_at: datetime
    loading_since: datetime | None = None  # since when pods were starting and none was ready
    proposals: Mapping[str, int] = field(default_factory=dict)  # the last guarded ones
    holds: Mapping[str, Hold] = field(default_factory=dict)
    latency: LatencyState = field(default_factory=LatencyState)
    load: Load = field(default_factory=Load)
    data_at: datetime | None = None

    @property
    def desired_replicas(self) -> int:
        """The last decision."""
        return max(self.proposals.values(), default=0)

    def postpone(self, pause: timedelta) -> "History":
        """The history as if the guards' clocks had stood still: time that nobody watched isn't time without need."""
        holds = {name: hold.postpone(pause) for name, hold in self.holds.items()}
        return replace(self, holds=holds, last_work_at=self.last_work_at + pause)


@dataclass(frozen=True, slots=True)
class Plan:
    """One decision."""

    desired_replicas: int
    proposals: Mapping[str, int]  # by external metric name; the largest is desired_replicas
    sentence: str
    is_limited_by_capacity: bool  # more was wanted than the cluster can schedule
    data_at: datetime | None  # when the queue was last really read; publish the proposals as of then
    history: History


def begin_history(desired_replicas: int | None, now: datetime) -> History:
    """History of a service first seen at ``now``: a new one, or any after a restart of the operator.

    ``desired_replicas``: status.scaling.desiredReplicas if there is one, else spec.replicas of the worker Deployment,
    else None. It is held for scaleDownAfterSeconds, as if it had been wanted just now.
    """
    seeded = desired_replicas or 0
    return History(
        last_work_at=now,
        proposals={QUEUE: seeded, LATENCY: 0},
        holds={QUEUE: Hold((Want(seeded, now),))},
    )


def plan(observation: Observation, history: History, settings: ScalingSpec, now: datetime) -> Plan:
    """Decide the number of workers of one service at one tick."""
    history = history.postpone(_measure_unwatched(observation))
    if observation.queue is None:
        return _hold_without_data(observation, history, settings)
    has_work = observation.queue.depth > 0 or bool(observation.finished)
    loading_since = _loading_since(observation.pods, history, now)
    is_loading = loading_since is not None and now - loading_since < LOADING_PATIENCE
    last_work_at = now if has_work or is_loading else history.last_work_at
    for_latency, latency = propose_for_latency(observation, history.latency, settings, now)
    wanted = {
        QUEUE: propose_for_queue(observation, observation.queue, history.load, history.desired_replicas, settings),
        LATENCY: for_latency,
    }
    limit = _capacity_limit(observation.pods, settings)
    holds = _hold(wanted, history.holds, limit, timedelta(seconds=settings.scale_down_after_seconds), now)
    is_last_kept = _is_last_pod_kept(history, settings, idle=now - last_work_at, has_work=has_work)
    proposals = {
        name: _clamp(max(min(hold.replicas, limit), int(is_last_kept)), settings) for name, hold in holds.items()
    }
    desired = max(proposals.values())
    strongest = max(wanted.values(), key=lambda proposal: proposal.replicas)
    return Plan(
        desired_replicas=desired,
        proposals=proposals,
        sentence=_explain(desired, strongest, observation, settings),
        is_limited_by_capacity=limit < min(strongest.replicas, settings.max_replicas),
        data_at=now,
        history=replace(
            history,
            last_work_at=last_work_at,
            loading_since=loading_since,
            proposals=proposals,
            holds=holds,
            latency=latency,
            load=history.load.measure(observation),
            data_at=now,
        ),
    )


def to_external_values(decision: Plan, observation: Observation) -> dict[str, float]:
    """The external metrics of a service by name: the proposals, and the raw figures that are known."""
    values: dict[str, float] = dict(decision.proposals)
    if observation.queue is not None:
        values[metrics.EXTERNAL_QUEUE_DEPTH] = observation.queue.depth
    if observation.latency_p95_seconds is not None:
        values[metrics.EXTERNAL_LATENCY_P95_SECONDS] = observation.latency_p95_seconds
    return values


def _hold_without_data(observation: Observation, history: History, settings: ScalingSpec) -> Plan:
    proposals = {name: _clamp(replicas, settings) for name, replicas in history.proposals.items()}
    desired = max(proposals.values())
    redis = "; no pod reaches Redis" if observation.broker_up is False else ""
    return Plan(
        desired_replicas=desired,
        proposals=proposals,
        sentence=(
            f"{_count(desired)} held: the queue's depth is unknown; "
            f"{observation.pods_answering} of {observation.pods_scraped} pods answer /metrics{redis}"
        ),
        is_limited_by_capacity=False,
        data_at=history.data_at,
        history=replace(
            history,
            proposals=proposals,
            load=history.load.measure(observation),
        ),
    )


def _measure_unwatched(observation: Observation) -> timedelta:
    """How much of the time since the previous tick nobody saw: all of it without data, a stall's part otherwise."""
    elapsed = timedelta(seconds=observation.elapsed_seconds or 0.0)
    return elapsed if observation.queue is None else max(timedelta(), elapsed - LONGEST_TICK)


def _loading_since(pods: PodCounts, history: History, now: datetime) -> datetime | None:
    return (history.loading_since or now) if pods.starting and not pods.ready else None


def _is_last_pod_kept(history: History, settings: ScalingSpec, *, idle: timedelta, has_work: bool) -> bool:
    """Not a want, which would be held once more after scaleToZeroAfterSeconds, but a floor."""
    patience = timedelta(seconds=settings.scale_to_zero_after_seconds)
    return has_work or (history.desired_replicas > 0 and idle < patience)


def _hold(
    wanted: Mapping[str, Proposal], holds: Mapping[str, Hold], limit: int, duration: timedelta, now: datetime
) -> dict[str, Hold]:
    return {
        name: holds.get(name, Hold()).remember(min(proposal.replicas, limit), now, duration)
        for name, proposal in wanted.items()
    }


def _capacity_limit(pods: PodCounts, settings: ScalingSpec) -> int:
    return max(pods.existing, pods.desired) if pods.unschedulable else settings.max_replicas


def _clamp(replicas: int, settings: ScalingSpec) -> int:
    return max(settings.min_replicas, min(replicas, settings.max_replicas))


def _count(pods: int) -> str:
    return f"{pods} pod" if pods == 1 else f"{pods} pods"


def _explain(desired: int, strongest: Proposal, observation: Observation, settings: ScalingSpec) -> str:
    pods = observation.pods
    unschedulable = f", {pods.unschedulable} unschedulable" if pods.unschedulable else ""
    return (
        f"{_count(desired)}: {_explain_number(desired, strongest, pods, settings)}; "
        f"{pods.ready} ready, {pods.starting} starting{unschedulable}"
    )


def _explain_number(desired: int, strongest: Proposal, pods: PodCounts, settings: ScalingSpec) -> str:
    wanted, because = strongest.replicas, strongest.because
    if desired == wanted:
        return because if wanted else f"nothing waited or ran for {settings.scale_to_zero_after_seconds} s"
    if desired > wanted:
        return f"{because} ({wanted} needed; {_explain_more(desired, wanted, settings)})"
    if desired == settings.max_replicas:
        return f"{because} ({wanted} needed; maxReplicas {desired})"
    return f"{because} ({wanted} needed; the cluster has no room for {pods.unschedulable} of the pods already ordered)"


def _explain_more(desired: int, wanted: int, settings: ScalingSpec) -> str:
    if desired == settings.min_replicas:
        return f"minReplicas {desired}"
    if wanted == 0 and desired == 1:
        return f"the last pod is given up after {settings.scale_to_zero_after_seconds} s of that"
    return f"a pod is given up after {settings.scale_down_after_seconds} s without need"
