"""What one service did and has at one tick, merged from its pods' samples. A figure that nobody could read is None.

A missing figure is never a zero: an outage that reads as "no work" would release every worker.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from easel_operator.autoscaling.counters import Buckets, CounterReading, Window, advance
from easel_operator.autoscaling.work import Arrivals
from easel_operator.autoscaling.workers import PodCounts

LATENCY_QUANTILE: Final = 0.95


@dataclass(frozen=True, slots=True)
class QueueReading:
    """The shared queue, as one pod read it."""

    waiting: int
    running: int
    oldest_waiting_age_seconds: float | None = None
    waiting_gpu_seconds: float | None = None  # predicted; None from servers of an earlier release
    running_gpu_seconds: float | None = None  # what is left of them
    # The same of bounded work: of each job at most what one pod can do within the target. None from earlier releases.
    waiting_bounded_gpu_seconds: float | None = None
    running_bounded_gpu_seconds: float | None = None
    overrunning: int | None = None  # jobs that have run for longer than the target: a busy pod each

    @property
    def depth(self) -> int:
        """Requests waiting and running."""
        return self.waiting + self.running

    def estimate_backlog_gpu_seconds(self, job_seconds: float) -> float:
        """Work that waits and the rest of what runs; ``job_seconds`` a request where no pod reported.

        A running request of which nothing is known is taken to be half done.
        """
        return self._estimate(self.waiting_gpu_seconds, self.running_gpu_seconds, job_seconds)

    def estimate_bounded_gpu_seconds(self, job_seconds: float) -> float:
        """The same of bounded work; servers of an earlier release bound none, so theirs counts as it is."""
        waiting, running = self.waiting_bounded_gpu_seconds, self.running_bounded_gpu_seconds
        return self._estimate(
            self.waiting_gpu_seconds if waiting is None else waiting,
            self.running_gpu_seconds if running is None else running,
            job_seconds,
        )

    def _estimate(self, waiting: float | None, running: float | None, job_seconds: float) -> float:
        return (self.waiting * job_seconds if waiting is None else waiting) + (
            self.running * job_seconds / 2 if running is None else running
        )


@dataclass(frozen=True, slots=True)
class AttemptReading:
    """What a worker did since its process began: what two revisions are compared by."""

    succeeded: float
    failed: float  # whether the job ended so, or was released for another attempt
    durations: Buckets = field(default_factory=dict)  # claimed to finished, of those that succeeded
    restarts: float = 0  # workers that ended before, in the same container


@dataclass(frozen=True, slots=True)
class PodMetrics:
    """The figures of one pod's /metrics that Easel reads; None where the pod gave none, NaN or nonsense."""

    broker_up: bool | None = None
    queue: QueueReading | None = None
    in_flight: int | None = None  # jobs on this worker
    counters: CounterReading = field(default_factory=CounterReading)
    attempts: AttemptReading | None = None  # None of gateways, and of workers of an earlier release
    longest_job_seconds: float | None = None  # that succeeded on this worker, from claimed to finished
    is_redis_full: bool = False
    is_redis_evicting: bool = False  # Redis is refused, since it may drop what it keeps
    start_phases: Mapping[str, float] = field(default_factory=dict)  # seconds of a worker's start, by ColdStartPhase
    restarts: int = 0  # workers that ended before, in the same container
    add_on_problems: Mapping[str, str] = field(default_factory=dict)  # what can't be used, by key: why
    model_cache_bytes: Mapping[str, float] = field(default_factory=dict)  # of a Job that fills a cache, by state


@dataclass(frozen=True, slots=True)
class PodSample:
    """One pod's answer to one scrape, or why there was none."""

    pod_name: str
    component: str  # names.COMPONENT_GATEWAY or names.COMPONENT_WORKER
    scraped_at: datetime
    metrics: PodMetrics | None  # None exactly when error is set
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """One service at one tick."""

    at: datetime
    pods: PodCounts
    pods_scraped: int
    pods_answering: int
    broker_up: bool | None
    queue: QueueReading | None
    idle_pods: frozenset[str]  # names of workers that said they run nothing; silent ones are not among them
    arrivals: Arrivals
    growth: CounterReading | None  # of all pods' counters since the previous tick; None at the first one
    elapsed_seconds: float | None  # since the previous tick; negative where the clock was set back
    window: Window
    is_redis_full: bool = False  # by what any pod says
    is_redis_evicting: bool = False  # some pod refuses Redis, since it may drop what it keeps

    @property
    def busy_pods(self) -> int:
        """Ready workers that run a job, at most: those that didn't say they are idle, and no more than jobs run."""
        running = self.queue.running if self.queue else 0
        return max(0, min(running, self.pods.ready - len(self.idle_pods)))

    @property
    def overrunning_pods(self) -> int:
        """Ready workers that are busy with jobs that have run for longer than the target, and with nothing else.

        Jobs that share a worker overrun together: it is one pod, however many they are. Who shares nobody says, so as
        many are taken to be on each as on the mean of all busy ones.
        """
        overrunning = self.queue.overrunning if self.queue else None
        if self.queue is None or not overrunning or not self.busy_pods:
            return 0
        jobs_a_pod = max(1.0, self.queue.running / self.busy_pods)
        return min(math.ceil(overrunning / jobs_a_pod), self.busy_pods)

    @property
    def latency_p95_seconds(self) -> float | None:
        """Of jobs that finished within counters.WINDOW; None if none did. Computed anew at each call."""
        return self.window.latency_quantile_seconds(LATENCY_QUANTILE)

    @property
    def backlog_gpu_seconds(self) -> float | None:
        """Work that waits and the rest of what runs; None if nobody could read the queue."""
        return self.queue.estimate_backlog_gpu_seconds(self.arrivals.job.mean_seconds) if self.queue else None

    @property
    def bounded_backlog_gpu_seconds(self) -> float | None:
        """The same, each job's work counted as at most what one pod can do of it within the target.

        What is beyond that no other pod can do: a job isn't divisible. A job that runs for longer is a busy pod.
        """
        return self.queue.estimate_bounded_gpu_seconds(self.arrivals.job.mean_seconds) if self.queue else None


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
    growth = window.last.counters if window.last else None
    elapsed_seconds = (now - previous.at).total_seconds() if previous else None
    arrivals = previous.arrivals if previous else Arrivals()
    return Observation(
        at=now,
        pods=pods,
        pods_scraped=len(samples),
        pods_answering=len(answers),
        broker_up=_is_broker_up(answers.values()),
        is_redis_full=any(metrics.is_redis_full for metrics in answers.values()),
        is_redis_evicting=any(metrics.is_redis_evicting for metrics in answers.values()),
        queue=_freshest_queue(samples),
        idle_pods=frozenset(name for name, metrics in answers.items() if metrics.in_flight == 0),
        arrivals=arrivals.measure(growth, elapsed_seconds or 0.0),
        growth=growth,
        elapsed_seconds=elapsed_seconds,
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
    """Whether any pod reaches Redis; None if none reports."""
    reported = [metrics.broker_up for metrics in answers if metrics.broker_up is not None]
    return any(reported) if reported else None
