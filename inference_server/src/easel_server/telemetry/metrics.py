"""The server's Prometheus metrics, by the names of ``easel_contract.metrics``. No global state: one registry each."""

import asyncio
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final

from easel_contract import metrics as contract
from easel_contract.server_config import SafetyPolicy
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from easel_server.generation.job import JobState
from easel_server.generation.models import EngineDescription
from easel_server.stores.dropped import DroppedRecords
from easel_server.stores.errors import StoreEvictsError, StoreUnavailableError
from easel_server.stores.images.interface import ImageStore, ImageUsage
from easel_server.stores.jobs.interface import JobQueue, QueueDepth
from easel_server.stores.usage.interface import CustomerUsage, UsageLedger
from easel_server.telemetry.add_on_problems import AddOnProblems
from easel_server.telemetry.collectors import (
    BuildCollector,
    CustomerCollector,
    DroppedCollector,
    QueueCollector,
    SecondsCollector,
)
from easel_server.telemetry.gateway_metrics import GatewayMetrics
from easel_server.telemetry.supervision import note_failure
from easel_server.telemetry.worker_start import WorkerStart


class Stopwatch:
    """Runs while at least one holder does. For one event loop or thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._holders = 0
        self._started_at = 0.0
        self._seconds = 0.0

    @property
    def seconds(self) -> float:
        """Time that it has run, up to now."""
        return self._seconds + (self._clock() - self._started_at if self._holders else 0.0)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Hold it."""
        if not self._holders:
            self._started_at = self._clock()
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            if not self._holders:
                self._seconds += self._clock() - self._started_at


logger = logging.getLogger(__name__)
DEPTH_TIMEOUT_SECONDS: Final = 1.0
BARE_SAMPLE: Final = re.compile(rb"^([a-zA-Z_:][a-zA-Z0-9_:]*) ", re.MULTILINE)
LABELLED_SAMPLE: Final = re.compile(rb"^([a-zA-Z_:][a-zA-Z0-9_:]*)\{", re.MULTILINE)
PHASE_QUEUE: Final = "queue"  # submitted to claimed, but for
PHASE_LOAD: Final = "load"  # the part of it in which the worker that claimed it was still loading its model
PHASE_RUN: Final = "run"  # claimed to the last denoising step
PHASE_ENCODE: Final = "encode"  # from there to encoded images
PHASES: Final = (PHASE_QUEUE, PHASE_LOAD, PHASE_RUN, PHASE_ENCODE)
SAFETY_ACTIONS: Final = {
    SafetyPolicy.FLAG: "flagged",
    SafetyPolicy.BLUR: "blurred",
    SafetyPolicy.REFUSE: "refused",
}
BATCH_BUCKETS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
OUTCOMES: Final = tuple(str(state) for state in JobState if state.is_final)


@dataclass(frozen=True)
class JobTiming:
    """Durations of a finished job, in seconds."""

    queue_seconds: float
    load_seconds: float
    run_seconds: float
    encode_seconds: float

    @property
    def total_seconds(self) -> float:
        """From submitted to finished."""
        return self.queue_seconds + self.load_seconds + self.worker_seconds

    @property
    def worker_seconds(self) -> float:
        """From claimed to finished: what a worker that stops would need for it."""
        return self.run_seconds + self.encode_seconds


class ServerMetrics(GatewayMetrics):
    """All metrics of one process. Those of a role that the process doesn't have count, and aren't shown."""

    def __init__(
        self,
        *,
        gateway: bool,
        worker: bool,
        dropped: DroppedRecords | None = None,
        labels: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """``dropped`` is what the stores of this process count, ``labels`` are on each series of the page."""
        self.registry = CollectorRegistry()
        super().__init__(self.registry if gateway else None)
        self._labels = labels
        self.registry.register(BuildCollector(gateway=gateway, worker=worker))
        self.registry.register(DroppedCollector(dropped or DroppedRecords()))
        self._queue = QueueCollector()
        self.registry.register(self._queue)
        self._customers = CustomerCollector()
        if gateway:
            self.registry.register(self._customers)
        self._reading: asyncio.Task[Shared] | None = None
        self._task_failures = Counter(
            contract.TASK_FAILURES_TOTAL,
            "Failures of tasks that run beside requests and jobs, and that went on all the same.",
            ["task"],
            registry=self.registry,
        )
        self._register_jobs(self.registry if worker else None)
        self._register_engine(self.registry if worker else None)
        self._register_add_ons(self.registry if worker else None)

    def _register_jobs(self, registry: CollectorRegistry | None) -> None:
        self._jobs_in_flight = Gauge(contract.IN_FLIGHT, "Jobs that this worker runs now.", registry=registry)
        jobs = Counter(contract.JOBS_TOTAL, "Jobs completed by this worker.", ["outcome"], registry=registry)
        self._jobs_by_outcome = {outcome: jobs.labels(outcome) for outcome in OUTCOMES}
        self._failed_attempts = Counter(
            contract.FAILED_ATTEMPTS_TOTAL,
            "Jobs that failed on this worker, whether they ended so or another attempt is made.",
            registry=registry,
        )
        self._worker_seconds = Histogram(
            contract.JOB_WORKER_SECONDS,
            "Time from claimed to finished, of succeeded jobs.",
            buckets=contract.WORKER_BUCKETS_SECONDS,
            registry=registry,
        )
        self._latency = Histogram(
            contract.JOB_LATENCY_SECONDS,
            "Time from submitted to finished, of succeeded jobs.",
            buckets=contract.LATENCY_BUCKETS_SECONDS,
            registry=registry,
        )
        phases = Histogram(
            contract.JOB_PHASE_SECONDS,
            "Time that succeeded jobs spent in each phase.",
            ["phase"],
            buckets=contract.LATENCY_BUCKETS_SECONDS,
            registry=registry,
        )
        self._by_phase = {phase: phases.labels(phase) for phase in PHASES}
        flagged = Counter(
            contract.FLAGGED_IMAGES_TOTAL,
            "Images that a safety checker flagged, by what became of them.",
            ["action"],
            registry=registry,
        )
        self._flagged = {policy: flagged.labels(action) for policy, action in SAFETY_ACTIONS.items()}
        self._longest_job_seconds = 0.0
        self._longest_job = Gauge(
            contract.LONGEST_JOB_SECONDS,
            "Longest time from claimed to finished, of jobs that succeeded on this worker; 0 before the first.",
            registry=registry,
        )

    def _register_engine(self, registry: CollectorRegistry | None) -> None:
        self._batch_images = Histogram(
            contract.BATCH_IMAGES,
            "Images that take a denoising step together, at each step.",
            buckets=BATCH_BUCKETS,
            registry=registry,
        )
        self._busy = Stopwatch()
        self.generating = Stopwatch()
        if registry is not None:
            text = "Time that this worker had a job in hand."
            registry.register(SecondsCollector(contract.BUSY_SECONDS_TOTAL, text, lambda: self._busy.seconds))
            text = "Time that this worker's engine was generating."
            registry.register(SecondsCollector(contract.WORK_GPU_SECONDS_TOTAL, text, lambda: self.generating.seconds))
        self._load = Gauge(contract.MODEL_LOAD_SECONDS, "Time it took to load the model.", registry=registry)
        self._start_phases = Gauge(
            contract.START_PHASE_SECONDS,
            "What the start of this worker was made of.",
            [contract.LABEL_PHASE],
            registry=registry,
        )
        self._restarts = Gauge(
            contract.RESTARTS, "Workers that ended before this one, in the same container.", registry=registry
        )
        self._engine = Gauge(
            contract.ENGINE_INFO,
            "The engine; always 1.",
            ["engine", "device", "dtype", "model"],
            registry=registry,
        )

    def _register_add_ons(self, registry: CollectorRegistry | None) -> None:
        self._gather_seconds = Histogram(
            contract.GATHER_SECONDS,
            "Time until a job's add-ons were on this machine, of jobs that use some.",
            buckets=contract.LATENCY_BUCKETS_SECONDS,
            registry=registry,
        )
        self._gathered_bytes = Counter(
            contract.GATHERED_BYTES_TOTAL, "Bytes of add-ons that this worker downloaded.", registry=registry
        )
        self._gather_failures = Counter(
            contract.GATHER_FAILURES_TOTAL, "Jobs whose add-ons could not be had.", ["kind"], registry=registry
        )
        self.add_on_problems = AddOnProblems()
        if registry is not None:
            registry.register(self.add_on_problems)

    def count_task_failure(self, task: str) -> None:
        """Count a failure of a task that goes on all the same."""
        self._task_failures.labels(task).inc()

    def describe_engine(self, description: EngineDescription) -> None:
        """Show what was loaded."""
        self._load.set(description.load_seconds)
        self._engine.labels(description.engine, description.device, description.dtype, description.model).set(1)

    def describe_start(self, start: WorkerStart) -> None:
        """Show what a start that is over was made of."""
        self._restarts.set(start.restarts)
        for phase, seconds in start.phase_seconds.items():
            self._start_phases.labels(phase).set(seconds)

    @contextmanager
    def working_on(self, jobs: int) -> Iterator[None]:
        """Show jobs as in flight, and the worker as busy."""
        self._jobs_in_flight.inc(jobs)
        try:
            with self._busy.running():
                yield
        finally:
            self._jobs_in_flight.dec(jobs)

    def count_flagged(self, policy: SafetyPolicy, images: int) -> None:
        """Count images that a safety checker flagged; ``policy`` is what became of them."""
        self._flagged[policy].inc(images)

    def count_batch(self, images: int) -> None:
        """Count a step that so many images take together."""
        self._batch_images.observe(images)

    def observe_gathering(self, seconds: float, downloaded_bytes: int) -> None:
        """Count a job whose add-ons are on this machine."""
        self._gather_seconds.observe(seconds)
        self._gathered_bytes.inc(downloaded_bytes)

    def count_gather_failure(self, kind: str) -> None:
        """Count a job whose add-ons aren't: for good, for now, in time, or for a reason that nobody foresaw."""
        self._gather_failures.labels(kind).inc()

    def count_job(self, state: JobState, timing: JobTiming) -> None:
        """Count a job that this worker completed; failed and canceled ones don't blur the latency."""
        self._jobs_by_outcome[state].inc()
        if state is JobState.FAILED:
            self._failed_attempts.inc()
        if state != JobState.SUCCEEDED:
            return
        self._worker_seconds.observe(timing.worker_seconds)
        self._latency.observe(timing.total_seconds)
        self._by_phase[PHASE_QUEUE].observe(timing.queue_seconds)
        self._by_phase[PHASE_LOAD].observe(timing.load_seconds)
        self._by_phase[PHASE_RUN].observe(timing.run_seconds)
        self._by_phase[PHASE_ENCODE].observe(timing.encode_seconds)
        self._longest_job_seconds = max(self._longest_job_seconds, timing.worker_seconds)
        self._longest_job.set(self._longest_job_seconds)

    def count_retry(self) -> None:
        """Count a job that failed here and was released for another attempt, wherever that is made."""
        self._failed_attempts.inc()

    def watch_memory(self, is_out_of_memory: Callable[[], bool]) -> None:
        """What says at each scrape whether the stores' server had no memory lately."""
        self._queue.is_out_of_memory = is_out_of_memory

    async def render(
        self,
        jobs: JobQueue,
        images: ImageStore | None = None,
        usage: UsageLedger | None = None,
        *,
        is_labelled: bool = True,
    ) -> bytes:
        """The text for ``/metrics``. Takes at most DEPTH_TIMEOUT_SECONDS, whatever the stores do."""
        if self._reading is None:  # else an earlier scrape's question is still open: wait for its answer
            ledger = usage if self._customers.is_due else None
            self._reading = asyncio.create_task(_read_shared(jobs, images, ledger), name="metrics-shared")
        reading = self._reading
        self._queue.depth = self._queue.images = None
        self._queue.is_evicting = False
        done, _ = await asyncio.wait({reading}, timeout=DEPTH_TIMEOUT_SECONDS)
        if done:
            self._reading = None
            try:
                shared = reading.result()
                self._queue.depth, self._queue.images = shared.depth, shared.images
                if shared.customers is not None:
                    self._customers.note(shared.customers)
            except StoreUnavailableError as error:
                self._queue.is_evicting = isinstance(error, StoreEvictsError)
                logger.debug("no queue depth for this scrape: %s", error)
            except Exception as error:  # one bad record shall not hide everything else that is measured
                note_failure("metrics-shared", self, error)
        page = generate_latest(self.registry)
        return label_page(page, self._labels) if is_labelled else page


@dataclass(frozen=True)
class Shared:
    """What all pods of a service would say; None: nobody asked for it."""

    depth: QueueDepth
    images: ImageUsage | None
    customers: tuple[CustomerUsage, ...] | None  # of today


async def _read_shared(jobs: JobQueue, images: ImageStore | None, usage: UsageLedger | None) -> Shared:
    return Shared(
        await jobs.depth(),
        await images.usage() if images is not None else None,
        await usage.read(datetime.now(UTC).date()) if usage is not None else None,
    )


def label_page(page: bytes, labels: Mapping[str, str]) -> bytes:
    """The page with these labels on each sample, which prometheus-client has no way to give to all of a registry.

    None of its own may have one of their names. https://prometheus.io/docs/instrumenting/exposition_formats/
    """
    if not labels:
        return page
    text = ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items())
    template = text.replace("\\", "\\\\").encode()  # for re, which reads backslashes
    return BARE_SAMPLE.sub(rb"\1{" + template + rb"} ", LABELLED_SAMPLE.sub(rb"\1{" + template + rb",", page))


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
