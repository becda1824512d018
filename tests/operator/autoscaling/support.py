"""Values to plan from: the clock begins at START and ticks by hand."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from easel_contract import names
from easel_contract.resource import ScalingSpec
from easel_operator.autoscaling.counters import CounterReading
from easel_operator.autoscaling.observation import Observation, PodMetrics, PodSample, QueueReading, observe
from easel_operator.autoscaling.planner import Plan, PlannerState, begin_state, plan
from easel_operator.autoscaling.replay.choice import Choice
from easel_operator.autoscaling.replay.setting import Setting
from easel_operator.autoscaling.work import Arrivals, MovingRate
from easel_operator.autoscaling.workers import PodCounts, WorkerPod

START = datetime(2026, 11, 1, 12, tzinfo=UTC)
TICK_SECONDS = 2.5
COLD_START_SECONDS = 60
NO_HEADROOM = Choice(Setting(0.0, 0.2, 3.0))


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def build_settings(**values: Any) -> ScalingSpec:
    """The scale-down delay is set, so that tests know it; the target is 30 s."""
    delays = {"scale_down_after_seconds": 60, "scale_to_zero_after_seconds": 300}
    return ScalingSpec.model_validate({"min_replicas": 0, "max_replicas": 10, **delays, **values})


def build_pods(
    ready: int = 1,
    starting: int = 0,
    unschedulable: int = 0,
    *,
    ages: tuple[float, ...] = (),
    at: datetime = START,
    is_rolling_out: bool = False,
) -> PodCounts:
    """``ages``: in seconds at ``at``, of the pods that start."""
    existing = ready + starting + unschedulable
    workers = tuple(WorkerPod(f"starting-{n}", at - timedelta(seconds=age), None) for n, age in enumerate(ages))
    return PodCounts(existing, existing, ready, starting, unschedulable, workers, is_rolling_out=is_rolling_out)


def build_arrivals(rate: float | None = None) -> Arrivals:
    """A rate in GPU-seconds a second that stood for long; None: nobody reported."""
    if rate is None:
        return Arrivals()
    fast, slow = (MovingRate(seconds, rate, 1.0) for seconds in (60.0, 300.0))
    return Arrivals(
        fast=fast,
        slow=slow,
        unbounded_fast=fast,
        unbounded_slow=slow,
        arrived_gpu_seconds=rate * TICK_SECONDS,
        arrived_seconds=TICK_SECONDS,
    )


def build_growth(finished: float = 0.0, late: float = 0.0) -> CounterReading:
    """Jobs that finished within a tick; ``late`` of them took between 30 and 60 s, the others no time to speak of."""
    buckets = {30.0: finished - late, 60.0: finished, math.inf: finished}
    return CounterReading(finished=finished, latency_buckets=buckets)


def build_observation(
    depth: int | None = 0,
    *,
    running: int = 0,
    gpu_seconds: float | None = None,
    pods: PodCounts | None = None,
    oldest: float | None = 0.0,
    finished: float = 0.0,
    late: float = 0.0,
    arrivals: float | None = None,
    idle_pods: int = 0,
) -> Observation:
    """One tick; ``depth`` counts running ones too, and None is a queue that nobody could read.

    ``gpu_seconds``: of all the backlog; 5 a request if None, as the planner assumes.
    """
    empty = observe((), None, pods or build_pods(), START)
    queue = None
    if depth is not None:
        known = None if gpu_seconds is None else gpu_seconds
        queue = QueueReading(depth - running, running, oldest, known, None if known is None else 0.0)
    return Observation(
        at=START,
        pods=pods or build_pods(),
        pods_scraped=3,
        pods_answering=0 if depth is None else 3,
        broker_up=None if depth is None else True,
        queue=queue,
        idle_pods=frozenset(f"idle-{number}" for number in range(idle_pods)),
        arrivals=build_arrivals(arrivals),
        growth=build_growth(finished, late),
        elapsed_seconds=TICK_SECONDS,
        window=empty.window,
    )


def build_sample(
    pod_name: str,
    at: datetime = START,
    *,
    component: str = names.COMPONENT_WORKER,
    queue: QueueReading | None = None,
    broker_up: bool | None = True,
    in_flight: int | None = None,
    counters: CounterReading | None = None,
) -> PodSample:
    return PodSample(pod_name, component, at, PodMetrics(broker_up, queue, in_flight, counters or CounterReading()))


class Service:
    """A service that is planned tick by tick, with the history carried along; it needs no headroom."""

    def __init__(
        self, settings: ScalingSpec, *, desired: int | None = None, cold_start: int = COLD_START_SECONDS
    ) -> None:
        self.settings = settings
        self.history: PlannerState = begin_state(desired, START, cold_starts_seconds=(cold_start,))
        self.seconds = 0.0

    def tick(self, observation: Observation, *, seconds: float = TICK_SECONDS) -> Plan:
        self.seconds += seconds
        now = after(self.seconds)
        decision = plan(replace(observation, at=now), self.history, self.settings, now, NO_HEADROOM)
        self.history = decision.state
        return decision

    def run(self, observation: Observation, seconds: float) -> Plan:
        decision = self.tick(observation)
        for _ in range(round(seconds / TICK_SECONDS) - 1):
            decision = self.tick(observation)
        return decision
