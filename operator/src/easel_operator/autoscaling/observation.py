"""What one service did and has at one tick, merged from its pods' samples. A figure that nobody could read is None.

A missing figure is never a zero: an outage that reads as "no work" would release every worker.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from easel_operator.autoscaling.counters import CounterReading, Window, advance

LATENCY_QUANTILE: Final = 0.95


@dataclass(frozen=True, slots=True)
class QueueReading:
    """The shared queue, as one pod read it."""

    waiting: int
    running: int
    oldest_waiting_age_seconds: float | None = None

    @property
    def depth(self) -> int:
        """Requests waiting and running."""
        return self.waiting + self.running


@dataclass(frozen=True, slots=True)
class PodMetrics:
    """The figures of one pod's /metrics that Easel reads; None where the pod gave none, NaN or nonsense."""

    broker_up: bool | None = None
    queue: QueueReading | None = None
    in_flight: int | None = None  # jobs on this worker
    counters: CounterReading = field(default_factory=CounterReading)


@dataclass(frozen=True, slots=True)
class PodSample:
    """One pod's answer to one scrape, or why there was none."""

    pod_name: str
    component: str  # names.COMPONENT_GATEWAY or names.COMPONENT_WORKER
    scraped_at: datetime
    metrics: PodMetrics | None  # None exactly when error is set
    error: str | None = None


@dataclass(frozen=True, slots=True)
class PodCounts:
    """Worker pods, as the API server has them."""

    desired: int  # spec.replicas of the worker Deployment
    existing: int  # pods that are not being deleted
    ready: int
    starting: int  # scheduled, not yet ready
    unschedulable: int  # Pending with PodScheduled=False, reason Unschedulable


@dataclass(frozen=True, slots=True)
class Observation:
    """One service at one tick."""

    at: datetime
    pods: PodCounts
    pods_scraped: int
    pods_answering: int
    broker_up: bool | None
    queue: QueueReading | None
    idle_workers: int  # worker pods that said they run nothing; silent ones are not among them
    latency_p95_seconds: float | None  # of jobs finished within counters.WINDOW
    arrivals_per_second: float | None  # mean over counters.WINDOW
    finished: float | None  # jobs since the previous tick
    elapsed_seconds: float | None  # since the previous tick
    window: Window


def observe(
    samples: Sequence[PodSample],
    previous: Observation | None,
    pods: PodCounts,
    now: datetime,
) -> Observation:
    """Merge one tick's samples of one service.

    ``previous`` is the same service's last observation: rates and quantiles come from the growth of counters since.
    """
    answers = {sample.pod_name: sample.metrics for sample in samples if sample.metrics is not None}
    window = advance(
        previous.window if previous else None, {name: metrics.counters for name, metrics in answers.items()}, now
    )
    growth = window.last
    return Observation(
        at=now,
        pods=pods,
        pods_scraped=len(samples),
        pods_answering=len(answers),
        broker_up=_is_broker_up(answers.values()),
        queue=_freshest_queue(samples),
        idle_workers=sum(metrics.in_flight == 0 for metrics in answers.values()),
        latency_p95_seconds=window.latency_quantile_seconds(LATENCY_QUANTILE),
        arrivals_per_second=window.arrivals_per_second(),
        finished=growth.finished if growth else None,
        elapsed_seconds=(growth.until - growth.since).total_seconds() if growth else None,
        window=window,
    )


def _freshest_queue(samples: Sequence[PodSample]) -> QueueReading | None:
    """The newest reading of the queue by a pod that reaches Redis.

    All pods read one shared queue, so their numbers are never added. Of equally new ones the fullest is believed.
    """
    readings = [
        (sample.scraped_at, sample.metrics.queue)
        for sample in samples
        if sample.metrics and sample.metrics.queue and sample.metrics.broker_up is not False
    ]
    return max(readings, key=lambda reading: (reading[0], reading[1].depth))[1] if readings else None


def _is_broker_up(answers: Iterable[PodMetrics]) -> bool | None:
    """Whether any pod reaches Redis; None if none tells."""
    told = [metrics.broker_up for metrics in answers if metrics.broker_up is not None]
    return any(told) if told else None
