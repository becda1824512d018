"""How many workers a service should have, and why in one sentence. The HorizontalPodAutoscaler carries it out.

Each signal (signals.py) proposes a number of pods; the same guards apply to each, and the largest is the decision.

The guards:

- missing data: every proposal stays as it was, and the clocks of the other guards stand still; the data's age is
  published, so that readers can tell.
- hold: a pod is given up only after some time without need of it (patience.py). During a rollout none is given up.
- busy: pods that run a job aren't given up; the idle ones go first.
- zero: the last pod is given up only after a longer time without any request, and only if minReplicas is 0.
  While the only pods are still loading their model that time doesn't run (LOADING_PATIENCE at most): a new service is
  shown to work once before it sleeps, and a pod that was woken isn't thrown away just before it is of use.
- capacity: while pods can't be scheduled, no more than those already ordered. Not fewer: a pending pod is what makes
  a cluster autoscaler add a node, and taking it back would end the shortage on paper, and order it again.
- minReplicas and maxReplicas, last.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from easel_contract import metrics
from easel_contract.resource import ScalingSpec

from easel_operator.autoscaling.cold_starts import ColdStarts, recall_cold_starts
from easel_operator.autoscaling.explanation import explain, explain_missing_data
from easel_operator.autoscaling.forecast import Forecast
from easel_operator.autoscaling.hold import Hold, Want
from easel_operator.autoscaling.lateness import (
    FIRST_MARGIN,
    LONGEST_WAIT_TARGETS,
    LatenessBudget,
    OldestWait,
)
from easel_operator.autoscaling.observation import Observation
from easel_operator.autoscaling.patience import Patience, find_patience
from easel_operator.autoscaling.pods import PodCounts
from easel_operator.autoscaling.proposal import Proposal
from easel_operator.autoscaling.signals import FLOOR, SIGNALS, SignalInput

LOADING_PATIENCE: Final = timedelta(minutes=10)
ROLLOUT_PATIENCE: Final = timedelta(minutes=30)  # one that takes longer is stuck, and no reason to keep idle pods
LONGEST_TICK: Final = timedelta(seconds=15)  # beyond it the operator stalled


@dataclass(frozen=True, slots=True)
class History:
    """What the planner remembers of a service from tick to tick."""

    last_work_at: datetime
    loading_since: datetime | None = None  # since when pods were starting and none was ready
    rolling_since: datetime | None = None
    proposals: Mapping[str, int] = field(default_factory=dict)  # the last guarded ones
    holds: Mapping[str, Hold] = field(default_factory=dict)
    cold_starts: ColdStarts = field(default_factory=ColdStarts)
    budget: LatenessBudget = field(default_factory=LatenessBudget)
    oldest_wait: OldestWait = field(default_factory=OldestWait)
    forecast: Forecast = field(default_factory=Forecast)
    data_at: datetime | None = None

    @property
    def desired_replicas(self) -> int:
        """The last decision."""
        return max(self.proposals.values(), default=0)

    def postpone(self, pause: timedelta) -> "History":
        """The history as if the guards' clocks had stood still: time that nobody watched isn't time without need."""
        holds = {name: hold.postpone(pause) for name, hold in self.holds.items()}
        return replace(self, holds=holds, last_work_at=self.last_work_at + pause)

    def learn(self, observation: Observation, settings: ScalingSpec) -> "History":
        """With what one more tick tells of cold starts, lateness and arrivals; whether or not the queue was read."""
        cold_starts = self.cold_starts.measure(observation.pods.workers)
        seconds = observation.elapsed_seconds or 0.0
        return replace(
            self,
            cold_starts=cold_starts,
            budget=self.budget.learn(observation.growth, settings.target_latency_seconds, seconds),
            forecast=self.forecast.watch(observation.arrivals, observation.at, cold_starts.median_seconds),
            loading_since=_since(observation.pods, self.loading_since, observation.at),
            rolling_since=(self.rolling_since or observation.at) if observation.pods.is_rolling_out else None,
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """One decision."""

    desired_replicas: int
    proposals: Mapping[str, int]  # by external metric name; the largest is desired_replicas
    sentence: str
    is_limited_by_capacity: bool  # more was wanted than the cluster can schedule
    data_at: datetime | None  # when the queue was last really read; publish the proposals as of then
    history: History


def begin_history(
    desired_replicas: int | None,
    now: datetime,
    *,
    cold_starts_seconds: Sequence[float] = (),
    lateness_margin: float = FIRST_MARGIN,
) -> History:
    """History of a service first seen at ``now``: a new one, or any after a restart of the operator.

    Args:
        desired_replicas: status.scaling.desiredReplicas if there is one, else spec.replicas of the worker Deployment,
            else None. It is held as if it had been wanted just now.
        now: the present.
        cold_starts_seconds: what status.scaling says of earlier starts.
        lateness_margin: likewise, of the head-room for lateness.
    """
    seeded = desired_replicas or 0
    return History(
        last_work_at=now,
        proposals={**{signal.metric: 0 for signal in SIGNALS}, FLOOR.metric: seeded},
        holds={FLOOR.metric: Hold((Want(seeded, now),))},
        cold_starts=recall_cold_starts(cold_starts_seconds),
        budget=LatenessBudget(lateness_margin),
    )


def plan(observation: Observation, history: History, settings: ScalingSpec, now: datetime) -> Plan:
    """Decide the number of workers of one service at one tick."""
    history = history.postpone(_measure_unwatched(observation)).learn(observation, settings)
    if observation.queue is None:
        return _hold_without_data(observation, history, settings)
    patience = find_patience(history.cold_starts, history.budget, settings)
    wanted, oldest_wait = _propose(observation, history, settings)
    has_work = observation.queue.depth > 0 or _has_finished(observation)
    history = replace(
        history,
        oldest_wait=oldest_wait,
        last_work_at=now
        if has_work or _is_recent(history.loading_since, now, LOADING_PATIENCE)
        else history.last_work_at,
        data_at=now,
    )
    limit = _capacity_limit(observation.pods, settings)
    holds = _hold(wanted, history.holds, limit, patience.hold, now)
    if _is_asleep(observation, history, settings, patience):
        holds |= {signal.metric: Hold() for signal in SIGNALS if signal.is_by_arrivals}
    floor = max(_floor(history, patience, has_work=has_work, now=now), observation.busy_pods)
    rolling = history.proposals if _is_recent(history.rolling_since, now, ROLLOUT_PATIENCE) else {}
    proposals = _bound(
        {name: max(min(hold.replicas, limit), rolling.get(name, 0)) for name, hold in holds.items()}, floor, settings
    )
    desired = max(proposals.values())
    strongest = max(wanted.values(), key=lambda proposal: proposal.replicas)
    return Plan(
        desired_replicas=desired,
        proposals=proposals,
        sentence=explain(desired, strongest, observation.pods, settings, patience),
        is_limited_by_capacity=limit < min(strongest.replicas, settings.max_replicas),
        data_at=now,
        history=replace(history, proposals=proposals, holds=holds),
    )


def to_external_values(decision: Plan, observation: Observation) -> dict[str, float]:
    """The external metrics of a service by name: the proposals, and the raw figures that are known."""
    values: dict[str, float] = dict(decision.proposals)
    if observation.queue is not None:
        values[metrics.EXTERNAL_QUEUE_DEPTH] = observation.queue.depth
    if observation.backlog_gpu_seconds is not None:
        values[metrics.EXTERNAL_BACKLOG_GPU_SECONDS] = observation.backlog_gpu_seconds
    if observation.arrivals.arrived_gpu_seconds is not None:
        values[metrics.EXTERNAL_ARRIVING_GPU_SECONDS_PER_SECOND] = observation.arrivals.gpu_seconds_per_second
    if observation.latency_p95_seconds is not None:
        values[metrics.EXTERNAL_LATENCY_P95_SECONDS] = observation.latency_p95_seconds
    return values


def _propose(
    observation: Observation, history: History, settings: ScalingSpec
) -> tuple[dict[str, Proposal], OldestWait]:
    """What each signal asks for, unguarded."""
    start = history.cold_starts.patience
    longest_seconds = LONGEST_WAIT_TARGETS * settings.target_latency_seconds + start.cold_start_seconds
    oldest_wait = history.oldest_wait.watch(observation, longest_seconds, start)
    given = SignalInput(
        observation=observation,
        scaling=settings,
        start=start,
        budget=history.budget,
        oldest_wait=oldest_wait,
        forecast=history.forecast,
        desired_replicas=history.desired_replicas,
    )
    return {signal.metric: signal.propose(given) for signal in SIGNALS}, oldest_wait


def _hold_without_data(observation: Observation, history: History, settings: ScalingSpec) -> Plan:
    proposals = _bound(history.proposals, 0, settings)
    desired = max(proposals.values())
    return Plan(
        desired_replicas=desired,
        proposals=proposals,
        sentence=explain_missing_data(desired, observation),
        is_limited_by_capacity=False,
        data_at=history.data_at,
        history=replace(history, proposals=proposals),
    )


def _measure_unwatched(observation: Observation) -> timedelta:
    """How much of the time since the previous tick nobody saw: all of it without data, a stall's part otherwise.

    A clock that was set back takes the guards' clocks with it.
    """
    elapsed = timedelta(seconds=observation.elapsed_seconds or 0.0)
    if elapsed < timedelta() or observation.queue is None:
        return elapsed
    return max(timedelta(), elapsed - LONGEST_TICK)


def _has_finished(observation: Observation) -> bool:
    """Whether a job ran between two ticks, unseen in the queue."""
    return observation.growth is not None and bool(observation.growth.finished)


def _since(pods: PodCounts, loading_since: datetime | None, now: datetime) -> datetime | None:
    return (loading_since or now) if pods.starting and not pods.ready else None


def _is_recent(since: datetime | None, now: datetime, limit: timedelta) -> bool:
    return since is not None and now - since < limit


def _floor(history: History, patience: Patience, *, has_work: bool, now: datetime) -> int:
    """1 while the last pod is kept. Not a want, which would be held once more after its time."""
    idle = now - history.last_work_at
    return int(has_work or (history.desired_replicas > 0 and idle < patience.zero))


def _is_asleep(observation: Observation, history: History, settings: ScalingSpec, patience: Patience) -> bool:
    """Whether nothing was asked for as long as the user says that the last pod waits, whatever arrived before."""
    is_set = settings.scale_to_zero_after_seconds is not None and settings.min_replicas == 0
    return is_set and observation.at - history.last_work_at >= patience.zero


def _hold(
    wanted: Mapping[str, Proposal], holds: Mapping[str, Hold], limit: int, duration: timedelta, now: datetime
) -> dict[str, Hold]:
    return {
        name: holds.get(name, Hold()).remember(min(proposal.replicas, limit), now, duration)
        for name, proposal in wanted.items()
    }


def _capacity_limit(pods: PodCounts, settings: ScalingSpec) -> int:
    return max(pods.existing, pods.desired) if pods.unschedulable else settings.max_replicas


def _bound(proposals: Mapping[str, int], floor: int, settings: ScalingSpec) -> dict[str, int]:
    """Every proposal within the maximum. The floor and the minimum are the queue's part: pods that do what there is."""
    bounded = {name: min(replicas, settings.max_replicas) for name, replicas in proposals.items()}
    floored = min(max(bounded[FLOOR.metric], floor), settings.max_replicas)
    bounded[FLOOR.metric] = max(settings.min_replicas, floored)
    return bounded
