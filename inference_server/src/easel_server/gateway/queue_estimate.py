"""How long work will wait and how far it is, for admission and for what is reported to clients."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from easel_contract.gateway_config import GatewayConfig, QueueConfig

from easel_server.gateway.live_config import LiveConfig
from easel_server.gateway.refusals import NO_WORKERS_RETRY_SECONDS, RefusalError
from easel_server.generation.job import Job, JobState
from easel_server.generation.models import ModelFacts
from easel_server.stores.jobs.interface import Jobs, QueueDepth, QueuePosition, QueueTerms

DEPTH_REFRESH_SECONDS: Final = 0.25  # one look at the queue serves all requests and streams in between


@dataclass(frozen=True)
class Progress:
    """Where a job stands at one moment."""

    jobs_ahead: int | None  # None unless it waits
    eta_seconds: float | None  # until its images are there; None if it is over, or if no worker will generate it
    steps_done: int
    steps: int
    workers: int | None = None  # that take work now: 0 while the service sleeps; None unless the job waits

    @property
    def queue_position(self) -> int | None:
        """1 for the job that is next; None unless the job waits."""
        return None if self.jobs_ahead is None else self.jobs_ahead + 1

    @property
    def share(self) -> float:
        """Of the steps, from 0 to 1."""
        return self.steps_done / self.steps


@dataclass(frozen=True)
class Capacity:
    """Who will do the work."""

    workers: int  # that take work now
    max_workers: int  # that there may be once the service has scaled
    start_seconds: float  # from ordering a worker to its first job


def predict_wait_seconds(gpu_seconds_ahead: float, capacity: Capacity) -> float:
    """Seconds until work of ``gpu_seconds_ahead`` has been claimed; infinite if there will be no worker.

    Those who are there begin at once; those who may be added begin ``start_seconds`` later and share what is left.
    """
    most = max(capacity.workers, capacity.max_workers)
    if most == 0:
        return math.inf
    done_by_then = capacity.workers * capacity.start_seconds
    if capacity.workers and (gpu_seconds_ahead <= done_by_then or most == capacity.workers):
        return gpu_seconds_ahead / capacity.workers
    return capacity.start_seconds + (gpu_seconds_ahead - done_by_then) / most


def build_terms(job: Job, queue: QueueConfig) -> QueueTerms | None:
    """On which terms a job is queued: until when it can be started in time, and be overtaken. None: by time alone."""
    if queue.target_seconds is None or queue.overtaken_seconds is None:
        return None
    return QueueTerms(queue.target_seconds - job.predicted_gpu_seconds, queue.overtaken_seconds)


class QueueEstimates:
    """Predictions from the queue as it was at most ``DEPTH_REFRESH_SECONDS`` ago."""

    def __init__(
        self,
        jobs: Jobs,
        config: GatewayConfig,
        live: LiveConfig,
        facts: Callable[[], Awaitable[ModelFacts]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._jobs = jobs
        self._config = config
        self._live = live
        self._facts = facts
        self._clock = clock
        self._depth = QueueDepth(0, 0, 0.0)
        self._read_at = -math.inf
        self._reading: asyncio.Task[QueueDepth] | None = None
        self._added_gpu_seconds = 0.0  # by this gateway since the queue was looked at

    async def check(self, job: Job) -> None:
        """Raises RefusalError if the job, submitted now, would wait for longer than it may.

        Its customer's place in the schedule counts, not what others have queued behind it.
        """
        bound_seconds = self._config.limits.max_wait_seconds
        if bound_seconds is None:
            return
        depth = await self._look()
        wait_seconds = await self._predict(depth.waiting_gpu_seconds + self._added_gpu_seconds, depth)
        if wait_seconds <= bound_seconds:
            return  # even if everything that waits went before
        position = await self._jobs.estimate_position(job, build_terms(job, self._live.queue))
        wait_seconds = await self._predict(position.gpu_seconds_ahead, depth)
        if wait_seconds > bound_seconds:
            raise refuse_for_wait(wait_seconds, bound_seconds)

    async def predict_claims(self, claims: int) -> float:
        """Seconds until so many of the jobs that wait have been claimed; infinite if there will be no worker."""
        depth = await self._look()
        mean_gpu_seconds = depth.waiting_gpu_seconds / max(1, depth.waiting)
        return await self._predict((claims - 1) * mean_gpu_seconds, depth)

    async def count_waiting(self) -> int:
        """Jobs of everybody that wait to be claimed."""
        return (await self._look()).waiting

    def note_submitted(self, gpu_seconds: float) -> None:
        """Work was added to the queue."""
        self._added_gpu_seconds += gpu_seconds

    async def progress(self, job: Job, position: QueuePosition | None = None) -> Progress:
        """Where a job stands. The store is asked for its position if it waits and none is given."""
        steps = job.parameters.steps
        done = steps if job.state is JobState.SUCCEEDED else min(job.steps_done, steps)
        if job.state.is_final:
            return Progress(None, None, done, steps)
        if job.state is JobState.RUNNING:
            left = max(0, steps - job.steps_done) / steps
            return Progress(None, round(job.predicted_gpu_seconds * left, 1), done, steps)
        position = position or await self._jobs.position(job.id)
        if position is None:  # it was claimed, or ended, since
            return Progress(0, round(job.predicted_gpu_seconds, 1), done, steps)
        depth = await self._look()
        wait_seconds = await self._predict(position.gpu_seconds_ahead, depth)
        eta_seconds = None if math.isinf(wait_seconds) else round(wait_seconds + job.predicted_gpu_seconds, 1)
        return Progress(position.jobs_ahead, eta_seconds, done, steps, workers=depth.workers)

    async def _predict(self, waiting_gpu_seconds_ahead: float, depth: QueueDepth) -> float:
        """Seconds until work behind what runs and this much of what waits is claimed."""
        is_idle = waiting_gpu_seconds_ahead == 0 and depth.running < depth.workers
        ahead = 0.0 if is_idle else waiting_gpu_seconds_ahead + depth.running_gpu_seconds
        # The cold start has the node and the container's image in it, which a worker can't measure of itself.
        queue = self._live.queue
        cold_start_seconds = queue.cold_start_seconds if queue.target_seconds is not None else 0.0
        start_seconds = max(cold_start_seconds, (await self._facts()).load_seconds)
        return predict_wait_seconds(ahead, Capacity(depth.workers, self._live.max_workers or 0, start_seconds))

    async def _look(self) -> QueueDepth:
        """The depth; all who ask while it is being read share that reading, its failure too."""
        if self._clock() - self._read_at < DEPTH_REFRESH_SECONDS:
            return self._depth
        if self._reading is None:
            self._reading = asyncio.create_task(self._read(), name="queue-depth")
            self._reading.add_done_callback(self._end_reading)
        return await asyncio.shield(self._reading)

    async def _read(self) -> QueueDepth:
        added = self._added_gpu_seconds
        self._depth = await self._jobs.depth()
        self._read_at = self._clock()
        self._added_gpu_seconds = max(0.0, self._added_gpu_seconds - added)
        return self._depth

    def _end_reading(self, reading: asyncio.Task[QueueDepth]) -> None:
        self._reading = None
        if not reading.cancelled():
            reading.exception()  # asked for: whoever waited for it may have left


def refuse_for_wait(wait_seconds: float, bound_seconds: int) -> RefusalError:
    """The predicted wait is longer than the service lets anybody wait. It shrinks by a second a second."""
    if math.isinf(wait_seconds):
        return RefusalError(
            503,
            "no_workers",
            f"no workers are running or starting; try again in {NO_WORKERS_RETRY_SECONDS} s",
            headers={"Retry-After": str(NO_WORKERS_RETRY_SECONDS)},
        )
    retry_seconds = math.ceil(wait_seconds - bound_seconds)
    return RefusalError(
        429,
        "wait_too_long",
        f"the predicted wait is {wait_seconds:.0f} s, at most {bound_seconds} s are allowed; "
        f"try again in {retry_seconds} s",
        headers={"Retry-After": str(retry_seconds)},
    )
