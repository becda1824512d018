"""What is read when metrics are scraped, and not counted as it happens.

Queue figures are the job store's, read right before they are rendered. When that is away there is no sample of
them, rather than 0 or an old one: the reader must see that nothing is known.
"""

import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from typing import Final

from easel_contract import metrics as contract
from easel_contract import names
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from easel_server.stores.dropped import DroppedRecords
from easel_server.stores.images.interface import ImageUsage
from easel_server.stores.jobs.interface import QueueDepth
from easel_server.stores.usage.interface import OTHERS, CustomerUsage

MAX_SHOWN_CUSTOMERS: Final = 20  # by name; the rest is one more
CUSTOMERS_INTERVAL_SECONDS: Final = 15.0  # between two looks at the ledger, however often metrics are asked for


class QueueCollector(Collector):
    """What the job store last said of its queue; ``depth`` is None when it is away."""

    def __init__(self) -> None:
        self.depth: QueueDepth | None = None
        self.images: ImageUsage | None = None  # None too where nobody asks for it
        self.is_out_of_memory: Callable[[], bool] = lambda: False
        self.is_evicting = False

    @override
    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(contract.BROKER_UP, "Whether the job store (Redis or memory) answered this scrape.")
        up.add_metric([], 0 if self.depth is None else 1)
        yield up
        full = GaugeMetricFamily(contract.REDIS_FULL, "Whether Redis had no memory for anything new lately.")
        full.add_metric([], int(self.is_out_of_memory()))
        yield full
        evicts = GaugeMetricFamily(
            contract.REDIS_EVICTS, "Whether Redis is refused since its maxmemory-policy lets it drop keys."
        )
        evicts.add_metric([], int(self.is_evicting))
        yield evicts
        if self.depth is None:
            return
        yield _by_state(
            contract.QUEUE_DEPTH,
            "Jobs of the service, as the shared job store counts them: the same number from every pod.",
            waiting=self.depth.waiting,
            running=self.depth.running,
        )
        yield _by_state(
            contract.BACKLOG_GPU_SECONDS,
            "Predicted GPU-seconds of those jobs; of running ones, what is left.",
            waiting=self.depth.waiting_gpu_seconds,
            running=self.depth.running_gpu_seconds,
        )
        yield _by_state(
            contract.BOUNDED_BACKLOG_GPU_SECONDS,
            "Of them, what one pod can do of each job within the service's target at most.",
            waiting=self.depth.bounded_waiting_gpu_seconds,
            running=self.depth.bounded_running_gpu_seconds,
        )
        overrunning = GaugeMetricFamily(
            contract.OVERRUNNING_JOBS, "Jobs that have run for longer than the service's target: each keeps a pod busy."
        )
        overrunning.add_metric([], self.depth.overrunning)
        yield overrunning
        age = GaugeMetricFamily(
            contract.OLDEST_WAITING_AGE_SECONDS, "Age of the oldest waiting job; 0 when nothing waits."
        )
        age.add_metric([], self.depth.oldest_waiting_age_seconds)
        yield age
        workers = GaugeMetricFamily(contract.WORKERS, "Workers that the job store has heard of lately.")
        workers.add_metric([], self.depth.workers)
        yield workers
        failures = CounterMetricFamily(
            contract.ENGINE_FAILURES_TOTAL,
            "Attempts that an engine's error ended, as the shared job store counts them: a worker that ends forgets.",
        )
        failures.add_metric([], self.depth.engine_failures)
        yield failures
        if self.images is not None:
            yield _build_image_store(self.images)


def _build_image_store(usage: ImageUsage) -> GaugeMetricFamily:
    text = "Room for the service's images, as the shared store counts it: the same numbers from every gateway."
    gauge = GaugeMetricFamily(contract.IMAGE_STORE_BYTES, text, labels=["kind"])
    gauge.add_metric(["used"], usage.used_bytes)
    gauge.add_metric(["reserved"], usage.reserved_bytes)
    gauge.add_metric(["budget"], usage.budget_bytes)
    gauge.add_metric(["inputs"], usage.input_bytes)
    if usage.input_budget_bytes is not None:
        gauge.add_metric(["input_budget"], usage.input_budget_bytes)
    return gauge


def _by_state(name: str, text: str, *, waiting: float, running: float) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(name, text, labels=[contract.LABEL_STATE])
    gauge.add_metric([contract.STATE_WAITING], waiting)
    gauge.add_metric([contract.STATE_RUNNING], running)
    return gauge


class DroppedCollector(Collector):
    """Damaged records that this process has met."""

    def __init__(self, dropped: DroppedRecords) -> None:
        self._dropped = dropped

    @override
    def collect(self) -> Iterator[Metric]:
        text = "Damaged or dangling records in Redis that were dropped, so that everything else goes on."
        counter = CounterMetricFamily(contract.DROPPED_RECORDS_TOTAL, text, labels=["kind"])
        for kind, count in self._dropped.counts.items():
            counter.add_metric([kind], count)
        yield counter


class SecondsCollector(Collector):
    """A counter of seconds that also counts what is still going on, so that its rate is smooth."""

    def __init__(self, name: str, text: str, seconds: Callable[[], float]) -> None:
        self._name = name
        self._text = text
        self._seconds = seconds

    @override
    def collect(self) -> Iterator[Metric]:
        counter = CounterMetricFamily(self._name, self._text)
        counter.add_metric([], self._seconds())
        yield counter


class BuildCollector(Collector):
    """Which release this process is of."""

    def __init__(self, *, gateway: bool, worker: bool) -> None:
        self._component = (
            "all" if gateway and worker else names.COMPONENT_GATEWAY if gateway else names.COMPONENT_WORKER
        )

    @override
    def collect(self) -> Iterator[Metric]:
        labels = ["component", "version", "revision", "python"]
        info = GaugeMetricFamily(contract.BUILD_INFO, "Which release runs; always 1.", labels=labels)
        revision = os.environ.get(names.ENV_REVISION, "")
        info.add_metric([self._component, version(names.DISTRIBUTION), revision, platform.python_version()], 1)
        yield info


class CustomerCollector(Collector):
    """The customers with the most GPU-seconds of today, as the ledger of usage last had them.

    Counters that begin anew each day, which rate() and increase() know how to read.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._customers: tuple[CustomerUsage, ...] = ()
        self._due_at_seconds = clock()

    @property
    def is_due(self) -> bool:
        """Whether the ledger is to be read again."""
        return self._clock() >= self._due_at_seconds

    def note(self, customers: Sequence[CustomerUsage]) -> None:
        """What the ledger has."""
        self._customers = _rank(customers)
        self._due_at_seconds = self._clock() + CUSTOMERS_INTERVAL_SECONDS

    @override
    def collect(self) -> Iterator[Metric]:
        labels = [contract.LABEL_CUSTOMER]
        jobs = CounterMetricFamily(
            contract.CUSTOMER_JOBS_TOTAL,
            "Jobs of today (UTC) that succeeded, the same from every gateway.",
            labels=labels,
        )
        seconds = CounterMetricFamily(
            contract.CUSTOMER_GPU_SECONDS_TOTAL,
            "GPU-seconds that jobs of today (UTC) took, as measured, the same from every gateway.",
            labels=labels,
        )
        for each in self._customers:
            jobs.add_metric([each.customer], each.jobs)
            seconds.add_metric([each.customer], each.gpu_seconds)
        yield jobs
        yield seconds


def _rank(customers: Sequence[CustomerUsage]) -> tuple[CustomerUsage, ...]:
    """Those that took most, and the sum of the others."""
    named = sorted(
        (each for each in customers if each.customer != OTHERS),
        key=lambda each: (-each.gpu_microseconds, -each.jobs, each.customer),
    )
    rest = [*named[MAX_SHOWN_CUSTOMERS:], *(each for each in customers if each.customer == OTHERS)]
    if not rest:
        return tuple(named)
    others = CustomerUsage(
        OTHERS,
        jobs=sum(each.jobs for each in rest),
        gpu_microseconds=sum(each.gpu_microseconds for each in rest),
    )
    return (*named[:MAX_SHOWN_CUSTOMERS], others)
