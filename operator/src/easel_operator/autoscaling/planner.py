"""How many workers a service should have, and why in one sentence. The HorizontalPodAutoscaler carries it out.

Each signal (signals.py) proposes a number of pods; the same guards apply to each, and the largest is the decision.

The guards:

- missing data: every proposal stays as it was, and the clocks of the other guards stand still; the data's age is
  published, so that readers can see it.
- stabilization: a pod is scaled down only after some time without need of it (scale_down.py), and none during a
  rollout.
- busy: pods that run a job aren't scaled down; the idle ones go first.
- zero: the last pod is scaled down only after a longer time without any request, and only if minReplicas is 0.
  While the only pods are still loading their model that time doesn't run (LOADING_TIMEOUT at most): a new service is
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
from easel_contract.metrics import DecisionReason
from easel_contract.resource import ScalingSpec

from easel_operator.autoscaling.cold_starts import ColdStarts, recall_cold_starts
from easel_operator.autoscaling.explanation import explain, explain_choice, explain_missing_data, name_reason
from easel_operator.autoscaling.forecast.forecast import Forecast
from easel_operator.autoscaling.headroom import OldestWait, find_longest_wait_seconds
from easel_operator.autoscaling.observation import Observation
from easel_operator.autoscaling.proposal import Proposal
from easel_operator.autoscaling.replay.choice import Choice
from easel_operator.autoscaling.scale_down import (
    LOADING_TIMEOUT,
    Recommendation,
    ScaleDownDelay,
    StabilizationWindow,
    find_scale_down_delay,
)
from easel_operator.autoscaling.signals import FLOOR, SCHEDULE, SIGNALS, SignalInput
from easel_operator.autoscaling.workers import PodCounts

ROLLOUT_TIMEOUT: Final = timedelta(minutes=30)  # one that takes longer is stuck, and no reason to keep idle pods
MAX_TICK: Final = timedelta(seconds=15)  # beyond it the operator stalled
UNSEEN: Final = Choice()
REASONS: Final = {signal.metric: DecisionReason(signal.name.capitalize()) for signal in SIGNALS}


@dataclass(frozen=True, slots=True)
class PlannerState:
    """What the planner remembers of a service from tick to tick."""

    last_work_at: datetime
    loading_since: datetime | None = None  # since when pods were starting and none was ready
    rolling_since: datetime | None = None
    proposals: Mapping[str, int] = field(default_factory=dict)  # the last guarded ones
    windows: Mapping[str, StabilizationWindow] = field(default_factory=dict)
    cold_starts: ColdStarts = field(default_factory=ColdStarts)
    oldest_wait: OldestWait = field(default_factory=OldestWait)
    forecast: Forecast = field(default_factory=Forecast)
    data_at: datetime | None = None
    foreknown_replicas: int = 0  # that schedules and bursts at known times asked for at the last tick

    @property
    def desired_replicas(self) -> int:
        """The last decision."""
        return max(self.proposals.values(), default=0)

    def postpone(self, pause: timedelta) -> "PlannerState":
        """The state as if the guards' clocks had stood still: time that nobody watched isn't time without need."""
        windows = {name: window.postpone(pause) for name, window in self.windows.items()}
        return replace(self, windows=windows, last_work_at=self.last_work_at + pause)

    def learn(self, observation: Observation, scaling: ScalingSpec) -> "PlannerState":
        """With what one more tick shows of cold starts and arrivals; whether or not the queue was read."""
        pods = observation.pods
        cold_starts = self.cold_starts.measure(pods.workers)
        lead_seconds = cold_starts.median_seconds
        return replace(
            self,
            cold_starts=cold_starts,
            forecast=self.forecast.watch(
                observation.arrivals, observation.at, lead_seconds, scaling.target_latency_seconds
            ),
            loading_since=(self.loading_since or observation.at) if pods.starting and not pods.ready else None,
            rolling_since=(self.rolling_since or observation.at) if pods.is_rolling_out else None,
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """One decision."""

    desired_replicas: int
    proposals: Mapping[str, int]  # by external metric name; the largest is desired_replicas
    sentence: str
    reason: DecisionReason
    is_limited_by_capacity: bool  # more were needed than the cluster can schedule
    data_at: datetime | None  # when the queue was last really read; publish the proposals as of then
    state: PlannerState


def begin_state(
    desired_replicas: int | None,
    now: datetime,
    *,
    cold_starts_seconds: Sequence[float] = (),
) -> PlannerState:
    """PlannerState of a service first seen at ``now``: a new one, or any after a restart of the operator.

    Args:
        desired_replicas: status.scaling.desiredReplicas if there is one, else spec.replicas of the worker Deployment,
            else None. It is kept as if it had been proposed just now.
        now: the present.
        cold_starts_seconds: what status.scaling says of earlier starts.
    """
    seeded = desired_replicas or 0
    return PlannerState(
        last_work_at=now,
        proposals={**{signal.metric: 0 for signal in SIGNALS}, FLOOR.metric: seeded},
        windows={FLOOR.metric: StabilizationWindow((Recommendation(seeded, now),))},
        cold_starts=recall_cold_starts(cold_starts_seconds),
    )


def plan(
    observation: Observation, state: PlannerState, scaling: ScalingSpec, now: datetime, choice: Choice = UNSEEN
) -> Plan:
    """Decide the number of workers of one service at one tick, with the headroom that was chosen by replay."""
    state = state.postpone(_measure_unwatched(observation)).learn(observation, scaling)
    if observation.queue is None:
        return _hold_without_data(observation, state, scaling)
    delay = find_scale_down_delay(state.cold_starts, choice.setting, scaling)
    wanted, oldest_wait = _propose(observation, state, scaling, choice)
    has_work = observation.queue.depth > 0 or _has_finished(observation)
    state = replace(
        state,
        oldest_wait=oldest_wait,
        last_work_at=now if has_work or _is_recent(state.loading_since, now, LOADING_TIMEOUT) else state.last_work_at,
        data_at=now,
        foreknown_replicas=max(wanted[SCHEDULE.metric].replicas, *(proposal.passing for proposal in wanted.values())),
    )
    limit = _capacity_limit(observation.pods, scaling)
    windows = {
        name: state.windows.get(name, StabilizationWindow()).remember(min(proposal.replicas, limit), now, delay.pod)
        for name, proposal in wanted.items()
    }
    if _is_asleep(observation, state, scaling, delay):
        windows |= {signal.metric: StabilizationWindow() for signal in SIGNALS if signal.is_by_arrivals}
    floor = max(_floor(state, delay, has_work=has_work, now=now), observation.busy_pods)
    rolling = state.proposals if _is_recent(state.rolling_since, now, ROLLOUT_TIMEOUT) else {}
    proposals = _bound(
        {
            name: max(min(max(window.replicas, wanted[name].passing), limit), rolling.get(name, 0))
            for name, window in windows.items()
        },
        floor,
        scaling,
    )
    desired = max(proposals.values())
    signal, strongest = max(wanted.items(), key=lambda each: each[1].most)
    return Plan(
        desired_replicas=desired,
        proposals=proposals,
        sentence=f"{explain(desired, strongest, observation.pods, scaling, delay)}; {explain_choice(choice)}",
        reason=name_reason(desired, strongest.most, REASONS[signal], observation.pods, scaling),
        is_limited_by_capacity=limit < min(strongest.most, scaling.max_replicas),
        data_at=now,
        state=replace(state, proposals=proposals, windows=windows),
    )


def to_external_values(decision: Plan, observation: Observation) -> dict[str, float]:
    """The external metrics of a service by name: the proposals, and the raw figures that are known."""
    values: dict[str, float] = dict(decision.proposals)
    if observation.queue is not None:
        values[metrics.EXTERNAL_QUEUE_DEPTH] = observation.queue.depth
    if observation.backlog_gpu_seconds is not None:
        values[metrics.EXTERNAL_BACKLOG_GPU_SECONDS] = observation.backlog_gpu_seconds
    if observation.arrivals.arrived_gpu_seconds is not None:
        arriving = observation.arrivals.unbounded_gpu_seconds_per_second
        values[metrics.EXTERNAL_ARRIVING_GPU_SECONDS_PER_SECOND] = arriving
    if observation.latency_p95_seconds is not None:
        values[metrics.EXTERNAL_LATENCY_P95_SECONDS] = observation.latency_p95_seconds
    return values


def _propose(
    observation: Observation, state: PlannerState, scaling: ScalingSpec, choice: Choice
) -> tuple[dict[str, Proposal], OldestWait]:
    """What each signal asks for, unguarded."""
    desired, start_up = state.desired_replicas, state.cold_starts.start_up
    overtaken_seconds = scaling.find_max_overtaken_seconds(start_up.cold_start_seconds)
    longest_seconds = find_longest_wait_seconds(
        scaling.target_latency_seconds, start_up.cold_start_seconds, overtaken_seconds
    )
    oldest_wait = state.oldest_wait.watch(observation, longest_seconds, start_up)
    given = SignalInput(
        observation=observation,
        scaling=scaling,
        start_up=start_up,
        setting=choice.setting,
        oldest_wait=oldest_wait,
        forecast=state.forecast,
        desired_replicas=desired,
    )
    return {signal.metric: signal.propose(given) for signal in SIGNALS}, oldest_wait


def _hold_without_data(observation: Observation, state: PlannerState, scaling: ScalingSpec) -> Plan:
    proposals = _bound(state.proposals, 0, scaling)
    desired = max(proposals.values())
    return Plan(
        desired_replicas=desired,
        proposals=proposals,
        sentence=explain_missing_data(desired, observation),
        reason=DecisionReason.DATA_MISSING,
        is_limited_by_capacity=False,
        data_at=state.data_at,
        state=replace(state, proposals=proposals),
    )


def _measure_unwatched(observation: Observation) -> timedelta:
    """How much of the time since the previous tick nobody saw: all of it without data, a stall's part otherwise.

    A clock that was set back takes the guards' clocks with it.
    """
    elapsed = timedelta(seconds=observation.elapsed_seconds or 0.0)
    if elapsed < timedelta() or observation.queue is None:
        return elapsed
    return max(timedelta(), elapsed - MAX_TICK)


def _has_finished(observation: Observation) -> bool:
    """Whether a job ran between two ticks, unseen in the queue."""
    return observation.growth is not None and bool(observation.growth.finished)


def _is_recent(since: datetime | None, now: datetime, limit: timedelta) -> bool:
    return since is not None and now - since < limit


def _floor(state: PlannerState, delay: ScaleDownDelay, *, has_work: bool, now: datetime) -> int:
    """1 while the last pod is kept. Not a proposal, which would be kept once more after its time."""
    idle = now - state.last_work_at
    return int(has_work or (state.desired_replicas > 0 and idle < delay.last_pod))


def _is_asleep(observation: Observation, state: PlannerState, scaling: ScalingSpec, delay: ScaleDownDelay) -> bool:
    """Whether nothing was asked for as long as the user says that the last pod waits, whatever arrived before."""
    is_set = scaling.scale_to_zero_after_seconds is not None and scaling.min_replicas == 0
    return is_set and observation.at - state.last_work_at >= delay.last_pod


def _capacity_limit(pods: PodCounts, scaling: ScalingSpec) -> int:
    return max(pods.existing, pods.desired) if pods.unschedulable else scaling.max_replicas


def _bound(proposals: Mapping[str, int], floor: int, scaling: ScalingSpec) -> dict[str, int]:
    """Every proposal within the maximum. The floor and the minimum are the queue's part: pods that do what there is."""
    bounded = {name: min(replicas, scaling.max_replicas) for name, replicas in proposals.items()}
    floored = min(max(bounded[FLOOR.metric], floor), scaling.max_replicas)
    bounded[FLOOR.metric] = max(scaling.min_replicas, floored)
    return bounded
