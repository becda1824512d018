"""How long work will wait, for admission and for what clients are told."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from easel_contract.server_config import GatewayConfig

from easel_server.gateway.refusals import refuse_for_wait
from easel_server.generation.job import Job, JobState
from easel_server.generation.models import ModelFacts
from easel_server.stores.interface import Broker
from easel_server.stores.jobs.interface import QueueDepth, QueuePosition


@dataclass(frozen=True)
class Capacity:
    """Who will do the work."""

    workers: int  # that take work now
    max_workers: int  # that there may be once the service has scaled
    start_seconds: float  # from ordering a worker to its first job


def predict_wait_seconds(gpu_seconds_ahead: float, capacity: Capacity) -> float:
    """Seconds until work of ``gpu_seconds_ahead`` has been handed out; infinite if there will be no worker.

    Those who are there begin at once; those who may be added begin ``start_seconds`` later and share what is left.
    """
    most = max(capacity.workers, capacity.max_workers)
    if most == 0:
        return math.inf
    done_by_then = capacity.workers * capacity.start_seconds
    if capacity.workers and (gpu_seconds_ahead <= done_by_then or most == capacity.workers):
        return gpu_seconds_ahead / capacity.workers
    return capacity.start_seconds + (gpu_seconds_ahead - done_by_then) / most


DEPTH_REFRESH_SECONDS = 0.25  # one look at the queue serves all requests and streams in between


@dataclass(frozen=True)
class Estimate:
    """What is predicted of a job, as things stand."""

    jobs_ahead: int  # that wait before it
    wait_seconds: float | None  # until it is handed to a worker; None: nothing draws, and nothing is about to
    remaining_seconds: float | None  # until its images are there; None: as above


DONE = Estimate(0, 0.0, 0.0)


class Waiting:
    """Predictions from the queue as it was at most ``DEPTH_REFRESH_SECONDS`` ago."""

    def __init__(
        self,
        broker: Broker,
        config: GatewayConfig,
        facts: Callable[[], Awaitable[ModelFacts]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._broker = broker
        self._config = config
        self._facts = facts
        self._clock = clock
        self._depth = QueueDepth(0, 0, 0.0)
        self._read_at = -math.inf
        self._reading = asyncio.Lock()
        self._added_gpu_seconds = 0.0  # by this gateway since the queue was looked at

    async def check(self, job: Job) -> None:
        """Raises RefusalError if the job, submitted now, would wait for longer than it may.

        Its customer's turn counts, not what others have queued behind it.
        """
        bound_seconds = self._config.limits.max_wait_seconds
        if bound_seconds is None:
            return
        depth = await self._look()
        wait_seconds = await self._predict(depth.waiting_gpu_seconds + self._added_gpu_seconds, depth)
        if wait_seconds <= bound_seconds:
            return  # even if everything that waits went before
        outlook = await self._broker.outlook(job.owner, job.priority, job.weight)
        wait_seconds = await self._predict(outlook.gpu_seconds_ahead, depth)
        if wait_seconds > bound_seconds:
            raise refuse_for_wait(wait_seconds, bound_seconds)

    def note_submitted(self, gpu_seconds: float) -> None:
        """Work was added to the queue."""
        self._added_gpu_seconds += gpu_seconds

    async def estimate(self, job: Job, position: QueuePosition | None = None) -> Estimate:
        """What is predicted of a job. The broker is asked for its position if it waits and none is given."""
        if job.state.is_final:
            return DONE
        own_seconds = job.predicted_gpu_seconds
        if job.state is JobState.RUNNING:
            steps = job.parameters.steps
            left = max(0, steps - job.steps_done) / steps
            return Estimate(0, 0.0, own_seconds * left)
        position = position or await self._broker.position(job.id)
        if position is None:  # it was handed out, or ended, since
            return Estimate(0, 0.0, own_seconds)
        depth = await self._look()
        wait_seconds = await self._predict(position.gpu_seconds_ahead, depth)
        if math.isinf(wait_seconds):
            return Estimate(position.jobs_ahead, None, None)
        return Estimate(position.jobs_ahead, wait_seconds, wait_seconds + own_seconds)

    async def _predict(self, waiting_gpu_seconds_ahead: float, depth: QueueDepth) -> float:
        """Seconds until work behind what runs and this much of what waits is handed out."""
        is_idle = waiting_gpu_seconds_ahead == 0 and depth.running < depth.workers
        ahead = 0.0 if is_idle else waiting_gpu_seconds_ahead + depth.running_gpu_seconds
        start_seconds = (await self._facts()).load_seconds
        return predict_wait_seconds(ahead, Capacity(depth.workers, self._config.max_workers or 0, start_seconds))

    async def _look(self) -> QueueDepth:
        async with self._reading:
            if self._clock() - self._read_at >= DEPTH_REFRESH_SECONDS:
                added = self._added_gpu_seconds
                self._depth = await self._broker.depth()
                self._read_at = self._clock()
                self._added_gpu_seconds = max(0.0, self._added_gpu_seconds - added)
        return self._depth


@dataclass(frozen=True)
class Progress:
    """Where a job stands at one moment."""

    jobs_ahead: int | None  # None unless it waits
    eta_seconds: float | None  # until its images are there; None if it is over, or if nothing will draw it
    steps_done: int
    steps: int

    @property
    def queue_position(self) -> int | None:
        """1 for the job whose turn is next; None unless the job waits."""
        return None if self.jobs_ahead is None else self.jobs_ahead + 1

    @property
    def share(self) -> float:
        """Of the steps, from 0 to 1."""
        return self.steps_done / self.steps


def build_progress(job: Job, estimate: Estimate) -> Progress:
    """The progress of a job of which this is predicted."""
    steps = job.parameters.steps
    seconds = None if job.state.is_final else estimate.remaining_seconds
    return Progress(
        jobs_ahead=estimate.jobs_ahead if job.state is JobState.WAITING else None,
        eta_seconds=None if seconds is None else round(seconds, 1),
        steps_done=steps if job.state is JobState.SUCCEEDED else min(job.steps_done, steps),
        steps=steps,
    )
