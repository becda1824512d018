"""Reads /metrics of pods, many at once, each bounded by a time-out, so that one dead pod doesn't blind the rest."""

import asyncio
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Final, Self

import aiohttp
from easel_contract import metrics, names
from easel_contract.conditions import shorten
from yarl import URL

from easel_operator.autoscaling.counters import CounterReading
from easel_operator.autoscaling.observation import AttemptReading, PodMetrics, PodSample, QueueReading
from easel_operator.cluster.bounded_body import read_bounded
from easel_operator.cluster.exposition import Series, read_series
from easel_operator.operator_metrics import FAULTS, MALFORMED_PAGES

logger = logging.getLogger(__name__)

MAX_CONCURRENT_SCRAPES: Final = 256
MAX_BODY_BYTES: Final = 4 << 20
MAX_PROBLEM_BYTES: Final = 500
MAX_REMEMBERED_PODS: Final = 1000  # with a malformed page; more of them aren't logged

LATENCY_BUCKET: Final = f"{metrics.JOB_LATENCY_SECONDS}_bucket"
WORKER_BUCKET: Final = f"{metrics.JOB_WORKER_SECONDS}_bucket"
FINISHED_OUTCOMES: Final = ("Succeeded", "Failed")  # what was cancelled says nothing of a pod's capacity
READ_SERIES: Final = (
    metrics.BROKER_UP,
    metrics.REDIS_FULL,
    metrics.REDIS_EVICTS,
    metrics.QUEUE_DEPTH,
    metrics.BACKLOG_GPU_SECONDS,
    metrics.BOUNDED_BACKLOG_GPU_SECONDS,
    metrics.OVERRUNNING_JOBS,
    metrics.OLDEST_WAITING_AGE_SECONDS,
    metrics.IN_FLIGHT,
    metrics.LONGEST_JOB_SECONDS,
    metrics.START_PHASE_SECONDS,
    metrics.RESTARTS,
    metrics.MODEL_CACHE_BYTES,
    metrics.ADD_ON_UNAVAILABLE,
    metrics.JOBS_SUBMITTED_TOTAL,
    metrics.PREDICTED_GPU_SECONDS_TOTAL,
    metrics.BOUNDED_GPU_SECONDS_TOTAL,
    metrics.JOBS_TOTAL,
    metrics.WORK_GPU_SECONDS_TOTAL,
    metrics.FAILED_ATTEMPTS_TOTAL,
    LATENCY_BUCKET,
    WORKER_BUCKET,
)


@dataclass(frozen=True, slots=True)
class ScrapeTarget:
    """A pod to read."""

    pod_name: str
    component: str  # names.COMPONENT_GATEWAY or names.COMPONENT_WORKER
    address: str  # the pod's IP, v4 or v6
    port: int = names.METRICS_PORT


class Scraper:
    """Scrapes pods. Use it as an async context manager, or call close()."""

    def __init__(self, *, timeout_seconds: float, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._slots = asyncio.Semaphore(MAX_CONCURRENT_SCRAPES)
        self._session: aiohttp.ClientSession | None = None
        self._malformed: set[str] = set()  # pods whose page was, the last time

    async def scrape(self, targets: Sequence[ScrapeTarget]) -> tuple[PodSample, ...]:
        """One sample for each target, in their order. A failure is a sample with an error, never an exception."""
        return tuple(await asyncio.gather(*(self._scrape_pod(target) for target in targets)))

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _scrape_pod(self, target: ScrapeTarget) -> PodSample:
        read: PodMetrics | None = None
        problem: str | None = None
        try:
            # The time-out begins with the pod's slot: waiting behind dead pods is no fault of this one.
            async with self._slots, asyncio.timeout(self._timeout_seconds):
                read = parse_metrics(await self._fetch(target))
        except TimeoutError:
            problem = f"no answer within {self._timeout_seconds:g} s"
        except (aiohttp.ClientError, OSError) as error:
            problem = _describe(error)
        except ValueError as error:
            problem = self._report_malformed(target, error)
        except Exception as error:  # whatever a page does to us, the other pods' figures count
            FAULTS.labels("scrape").inc()
            logger.exception("%s: reading its metrics met a fault of the operator's own", target.pod_name)
            problem = self._report_malformed(target, error)
        else:
            self._malformed.discard(target.pod_name)
        return PodSample(target.pod_name, target.component, self._clock(), read, problem)

    def _report_malformed(self, target: ScrapeTarget, error: Exception) -> str:
        """Count a page that can't be used, and log it once until the pod gives a better one."""
        MALFORMED_PAGES.inc()
        problem = _describe(error)
        if target.pod_name not in self._malformed and len(self._malformed) < MAX_REMEMBERED_PODS:
            self._malformed.add(target.pod_name)
            logger.warning("%s: its metrics can't be used, the other pods' are: %s", target.pod_name, problem)
        return problem

    async def _fetch(self, target: ScrapeTarget) -> str:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=MAX_CONCURRENT_SCRAPES))
        url = build_url(target)
        async with self._session.get(url, allow_redirects=False) as response:
            if response.status != 200:
                raise ValueError(f"HTTP {response.status} from {url}, expected 200")
            return (await read_bounded(response, MAX_BODY_BYTES)).decode()


def _describe(error: Exception) -> str:
    return shorten(f"{type(error).__name__}: {error}", MAX_PROBLEM_BYTES)


def build_url(target: ScrapeTarget) -> URL:
    """Where a pod's metrics are."""
    return URL.build(
        scheme="http",
        host=target.address,
        port=target.port,
        path=names.PATH_METRICS,
        query=names.METRICS_QUERY_BARE,
    )


def parse_metrics(text: str) -> PodMetrics:
    """Easel's figures in Prometheus' text format. Raises ValueError if a line of theirs is malformed, and nothing else.

    Values that are NaN, infinite or negative are missing.
    """
    series = read_series(text, READ_SERIES)
    broker_up = _read_value(series, metrics.BROKER_UP)
    in_flight = _read_value(series, metrics.IN_FLIGHT)
    return PodMetrics(
        broker_up=None if broker_up is None else broker_up >= 1,
        is_redis_full=(_read_value(series, metrics.REDIS_FULL) or 0) >= 1,
        is_redis_evicting=(_read_value(series, metrics.REDIS_EVICTS) or 0) >= 1,
        queue=_read_queue(series),
        in_flight=None if in_flight is None else round(in_flight),
        longest_job_seconds=_read_value(series, metrics.LONGEST_JOB_SECONDS),
        start_phases={
            labels[metrics.LABEL_PHASE]: value
            for labels, value in series.get(metrics.START_PHASE_SECONDS, ())
            if labels.get(metrics.LABEL_PHASE) in set(metrics.ColdStartPhase)
        },
        restarts=round(_read_value(series, metrics.RESTARTS) or 0),
        add_on_problems={
            labels[metrics.LABEL_KEY]: labels.get(metrics.LABEL_MESSAGE, "")
            for labels, value in series.get(metrics.ADD_ON_UNAVAILABLE, ())
            if labels.get(metrics.LABEL_KEY) and value >= 1
        },
        model_cache_bytes={
            labels[metrics.LABEL_STATE]: value
            for labels, value in series.get(metrics.MODEL_CACHE_BYTES, ())
            if metrics.LABEL_STATE in labels
        },
        counters=CounterReading(
            submitted=_read_value(series, metrics.JOBS_SUBMITTED_TOTAL),
            predicted_gpu_seconds=_read_value(series, metrics.PREDICTED_GPU_SECONDS_TOTAL),
            bounded_gpu_seconds=_read_value(series, metrics.BOUNDED_GPU_SECONDS_TOTAL),
            finished=_read_finished(series),
            work_gpu_seconds=_read_value(series, metrics.WORK_GPU_SECONDS_TOTAL),
            latency_buckets=_read_buckets(series, LATENCY_BUCKET),
        ),
        attempts=_read_attempts(series),
    )


def _read_value(series: Series, name: str, **labels: str) -> float | None:
    values = list(_select(series, name, labels))
    return sum(values) if values else None


def _select(series: Series, name: str, labels: Mapping[str, str]) -> Iterator[float]:
    return (value for found, value in series.get(name, ()) if labels.items() <= found.items())


def _read_queue(series: Series) -> QueueReading | None:
    waiting, running = _read_by_state(series, metrics.QUEUE_DEPTH)
    if waiting is None or running is None:
        return None
    waiting_gpu_seconds, running_gpu_seconds = _read_by_state(series, metrics.BACKLOG_GPU_SECONDS)
    bounded_waiting, bounded_running = _read_by_state(series, metrics.BOUNDED_BACKLOG_GPU_SECONDS)
    overrunning = _read_value(series, metrics.OVERRUNNING_JOBS)
    return QueueReading(
        waiting=round(waiting),
        running=round(running),
        oldest_waiting_age_seconds=_read_value(series, metrics.OLDEST_WAITING_AGE_SECONDS),
        waiting_gpu_seconds=waiting_gpu_seconds,
        running_gpu_seconds=running_gpu_seconds,
        waiting_bounded_gpu_seconds=bounded_waiting,
        running_bounded_gpu_seconds=bounded_running,
        overrunning=None if overrunning is None else round(overrunning),
    )


def _read_by_state(series: Series, name: str) -> tuple[float | None, float | None]:
    waiting = _read_value(series, name, **{metrics.LABEL_STATE: metrics.STATE_WAITING})
    return waiting, _read_value(series, name, **{metrics.LABEL_STATE: metrics.STATE_RUNNING})


def _read_finished(series: Series) -> float | None:
    counts = [_read_value(series, metrics.JOBS_TOTAL, outcome=outcome) for outcome in FINISHED_OUTCOMES]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _read_attempts(series: Series) -> AttemptReading | None:
    succeeded = _read_value(series, metrics.JOBS_TOTAL, outcome="Succeeded")
    failed = _read_value(series, metrics.FAILED_ATTEMPTS_TOTAL)
    if succeeded is None or failed is None:
        return None
    restarts = _read_value(series, metrics.RESTARTS) or 0
    return AttemptReading(succeeded, failed, _read_buckets(series, WORKER_BUCKET), restarts)


def _read_buckets(series: Series, name: str) -> dict[float, float]:
    buckets: dict[float, float] = defaultdict(float)
    for labels, value in series.get(name, ()):
        if "le" not in labels or math.isnan(bound := float(labels["le"])):
            raise ValueError(f"{name} with labels {dict(labels)} has no upper bound le")
        buckets[bound] += value
    return dict(buckets)
