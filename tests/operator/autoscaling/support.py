"""Values to plan from: the clock begins at START and ticks by hand."""

from datetime import UTC, datetime, timedelta

from easel_contract import names
from easel_contract.resource import ScalingSpec
from easel_operator.autoscaling.counters import CounterReading
from easel_operator.autoscaling.observation import (
    Observation,
    PodCounts,
    PodMetrics,
    PodSample,
    QueueReading,
    observe,
)
from easel_operator.autoscaling.planner import History, Plan, begin_history, plan

START = datetime(2026, 11, 1, 12, tzinfo=UTC)
TICK_SECONDS = 2.5


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def build_settings(**values: int) -> ScalingSpec:
    return ScalingSpec.model_validate({"min_replicas": 0, "max_replicas": 10, **values})


def build_pods(ready: int = 1, starting: int = 0, unschedulable: int = 0) -> PodCounts:
    existing = ready + starting + unschedulable
    return PodCounts(existing, existing, ready, starting, unschedulable)


def build_observation(
    depth: int | None = 0,
    *,
    running: int = 0,
    pods: PodCounts | None = None,
    p95: float | None = None,
    oldest: float | None = 0.0,
    finished: float = 0.0,
    arrivals: float | None = None,
    idle_workers: int = 0,
) -> Observation:
    """One tick; ``depth`` counts running ones too, and None is a queue that nobody could read."""
    empty = observe((), None, pods or build_pods(), START)
    queue = None if depth is None else QueueReading(depth - running, running, oldest)
    return Observation(
        at=START,
        pods=pods or build_pods(),
        pods_scraped=3,
        pods_answering=0 if depth is None else 3,
        broker_up=None if depth is None else True,
        queue=queue,
        idle_workers=idle_workers,
        latency_p95_seconds=p95,
        arrivals_per_second=arrivals,
        finished=finished,
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
    """A service that is planned tick by tick, with the history carried along."""

    def __init__(self, settings: ScalingSpec, *, desired: int | None = None) -> None:
        self.settings = settings
        self.history: History = begin_history(desired, START)
        self.seconds = 0.0

    def tick(self, observation: Observation, *, seconds: float = TICK_SECONDS) -> Plan:
        self.seconds += seconds
        decision = plan(observation, self.history, self.settings, after(self.seconds))
        self.history = decision.history
        return decision

    def run(self, observation: Observation, seconds: float) -> Plan:
        decision = self.tick(observation)
        for _ in range(round(seconds / TICK_SECONDS) - 1):
            decision = self.tick(observation)
        return decision
