"""What one service did and has at one tick, merged from its pods' samples. A figure that nobody could read is None.

A missing figure is never a zero: an outage that reads as "no work" would release every worker.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from easel_operator.autoscaling.counters import CounterReading, Window


@dataclass(frozen=True, slots=True)
class PodMetrics:
    """The figures of one pod's /metrics that Easel reads; None where the pod gave none, NaN or nonsense."""

    broker_up: bool | None = None
    waiting: float | None = None  # requests in the shared queue, as this pod read it
    running: float | None = None  # requests on workers, as this pod read it
    oldest_waiting_age_seconds: float | None = None
    in_flight: float | None = None  # jobs on this worker
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
    waiting: int | None
    running: int | None
    oldest_waiting_age_seconds: float | None
    latency_p95_seconds: float | None  # of jobs finished within counters.WINDOW
    arrivals_per_second: float | None  # mean over counters.WINDOW
    finished: float | None  # jobs since the previous tick
    elapsed_seconds: float | None  # since the previous tick
    window: Window

    @property
    def depth(self) -> int | None:
        """Requests waiting and running: what runs counts, or a second request would wait for the first to end."""
        if self.waiting is None or self.running is None:
            return None
        return self.waiting + self.running


def observe(samples: Sequence[PodSample], previous: Observation | None, pods: PodCounts, now: datetime) -> Observation:
    """Merge one tick's samples of one service.

    ``previous`` is the same service's last observation: rates and quantiles come from the growth of counters since.
    """
    raise NotImplementedError
