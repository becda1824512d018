"""The worker's loop: claim jobs that can be generated together, generate them, report each; until it is drained.

While a batch is being reported, the next is claimed and generated, so that the GPU doesn't wait for the network.
"""

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from opentelemetry.trace import Tracer

from easel_server.engine.interface import Engine
from easel_server.generation.models import ModelIdentity
from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.images.interface import ImageStore
from easel_server.stores.jobs.interface import Claim, JobQueue
from easel_server.telemetry.logs import logged_for
from easel_server.telemetry.metrics import ServerMetrics
from easel_server.telemetry.tracing import NO_TRACER
from easel_server.worker.batch import Batch, StopReason
from easel_server.worker.drain import Drain
from easel_server.worker.engine_health import EngineFailedError, EngineHealth
from easel_server.worker.heartbeats import Heartbeats, OutageLog
from easel_server.worker.reporting import Reporter, Retries

logger = logging.getLogger(__name__)

INSTANT_BATCH_IMAGES: Final = 64  # of an engine that takes no time: fewer round trips, and nobody waits for the others


@dataclass(frozen=True)
class WorkerSettings:
    """Bounds of a worker; times in seconds."""

    name: str  # the pod's
    lease_seconds: float
    drain_seconds: float
    max_batch_images: int = 1  # of jobs that are generated together; a single job may have more
    claim_wait_seconds: float = 1.0  # how late a drain may be noticed by an idle worker
    heartbeat_limit_seconds: float = 1.0  # how late a cancel may be noticed, at the most
    retry_seconds: float = 0.25  # the first pause while the job store is away
    retry_limit_seconds: float = 5.0  # and the longest
    step_limit_seconds: float = 5.0  # how long a drain that is over waits for a step boundary


class Worker:
    """Runs jobs until it is drained. Make it when the engine is ready."""

    def __init__(
        self,
        queue: JobQueue,
        images: ImageStore,
        engine: Engine,
        settings: WorkerSettings,
        *,
        identity: ModelIdentity | None = None,
        metrics: ServerMetrics,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        """``identity`` is what the engine holds: jobs for it are claimed, besides those for no model in particular."""
        self._queue = queue
        self._models = [identity.key] if identity is not None else []
        self._engine = engine
        self._settings = settings
        self._metrics = metrics
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._health = EngineHealth(engine, self._executor)
        self._outages = OutageLog()
        self._drain = Drain(settings.drain_seconds)
        self._reporter = Reporter(
            queue,
            images,
            self._outages,
            self._drain,
            metrics,
            Retries(settings.retry_seconds, settings.retry_limit_seconds),
            load_seconds=engine.description.load_seconds,
            identity=identity,
            tracer=tracer,
        )
        # Two may fail before the lease is over.
        self._heartbeat_seconds = min(settings.lease_seconds / 3, settings.heartbeat_limit_seconds)
        self._is_instant = engine.description.is_instant
        self._max_images = max(settings.max_batch_images, INSTANT_BATCH_IMAGES if self._is_instant else 0)

    def drain(self) -> None:
        """Take no further job; finish those in hand if ``drain_seconds`` allow. Made for a signal handler."""
        self._drain.start()

    async def run(self) -> None:
        """Work until drained. Outages of the job store are outlived; anything unforeseen is raised.

        Raises EngineFailedError, once all jobs are reported or released, if the engine generates nothing any more.
        """
        reporting: asyncio.Task[None] | None = None
        try:
            while not self._drain.is_started and self._health.failure is None:
                asked_at_seconds = time.monotonic()
                claims = await self._claim()
                if reporting is not None and reporting.done():
                    reporting.result()
                if not claims:
                    continue
                batch = Batch(self._engine, claims, asked_at_seconds=asked_at_seconds)
                running = asyncio.create_task(self._run_batch(batch), name="batch")
                await asyncio.wait({running, batch.is_generated}, return_when=asyncio.FIRST_COMPLETED)
                if reporting is not None:
                    await reporting
                reporting = running
            if reporting is not None:
                await reporting
            if self._health.failure is not None:
                raise EngineFailedError(self._health.failure)
        finally:
            self._executor.shutdown(wait=False)

    async def _claim(self) -> tuple[Claim, ...]:
        settings = self._settings
        try:
            claims = await self._queue.claim(
                settings.name,
                self._models,
                lease_seconds=settings.lease_seconds,
                wait_seconds=settings.claim_wait_seconds,
                max_jobs=self._max_images,
                max_images=self._max_images,
            )
        except StoreUnavailableError as error:
            self._outages.note_outage(error)
            await self._drain.pause(settings.retry_seconds)
            return ()
        self._outages.note_answer()
        return claims

    async def _run_batch(self, batch: Batch) -> None:
        """Bring a batch from its claim to its last report."""
        heartbeats = Heartbeats(
            self._queue,
            self._outages,
            batch,
            self._metrics,
            period_seconds=self._heartbeat_seconds,
            on_stopped=self._reporter.settle,
        )
        with self._metrics.working_on(len(batch.runs)):
            beating = asyncio.create_task(heartbeats.run(), name="heartbeats")
            try:
                if not self._drain.is_started:
                    await self._generate(batch)
                    if self._health.failed_jobs or any(run.error is not None for run in batch.runs):
                        await self._health.examine(batch.runs)
                batch.is_generated.set_result(None)
                if any(run.unsent_previews for run in batch.runs):
                    await heartbeats.flush()
                for run in batch.runs:
                    if run.settling is None:
                        self._reporter.settle(batch, run)
                await asyncio.gather(*(run.settling for run in batch.runs if run.settling is not None))
            finally:
                heartbeats.end()
                await beating

    async def _generate(self, batch: Batch) -> None:
        """Until it is generated or the drain is over; a job that isn't generated then has no images and no error."""
        level = logging.DEBUG if self._is_instant else logging.INFO
        for run in batch.runs if logger.isEnabledFor(level) else ():
            parameters = run.job.parameters
            with logged_for(run.job.request_id):
                logger.log(
                    level,
                    "job %s: attempt %d, %dx%d pixels, %d image(s), %d steps, in a batch with %d other(s)",
                    *(run.job.id, run.job.attempts, parameters.width_pixels, parameters.height_pixels),
                    *(parameters.images, parameters.steps, len(batch.runs) - 1),
                )
        self._metrics.count_batch(sum(run.job.parameters.images for run in batch.runs))
        with self._metrics.generating.running():
            generating = batch.start(self._executor)
            if not generating.done():
                await asyncio.wait({generating, self._drain.time_is_up}, return_when=asyncio.FIRST_COMPLETED)
            if not generating.done():
                batch.stop(StopReason.DRAIN)
                await asyncio.wait({generating}, timeout=self._settings.step_limit_seconds)
            if generating.done():
                generating.result()
