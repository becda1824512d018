"""The worker's loop: claim jobs that can be drawn together, draw them, report each; and the drain that ends it.

While a batch is being reported, the next is claimed and drawn, so that the GPU doesn't wait for the network.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from opentelemetry.trace import Tracer

from easel_server.engine.interface import Engine
from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.jobs.interface import Claim, JobQueue
from easel_server.telemetry.logs import logged_for
from easel_server.telemetry.metrics import ServerMetrics
from easel_server.telemetry.tracing import NO_TRACER
from easel_server.worker.batch import Batch, JobRun
from easel_server.worker.broker_link import BrokerLink
from easel_server.worker.drain import Drain
from easel_server.worker.heartbeats import Heartbeats
from easel_server.worker.outcomes import StopReason
from easel_server.worker.reporting import Reporter, Retries

logger = logging.getLogger(__name__)

INSTANT_BATCH_IMAGES: Final = 64  # of an engine that takes no time: fewer round trips, and nobody waits for the others


@dataclass(frozen=True)
class WorkerSettings:
    """Bounds of a worker; times in seconds."""

    name: str  # the pod's
    lease_seconds: float
    drain_seconds: float
    max_batch_images: int = 1  # of jobs that are drawn together; a single job may have more
    claim_wait_seconds: float = 1.0  # how late a drain may be noticed by an idle worker
    heartbeat_limit_seconds: float = 1.0  # how late a cancel may be noticed, at the most
    retry_seconds: float = 0.25  # the first pause while the broker is away
    retry_limit_seconds: float = 5.0  # and the longest
    step_limit_seconds: float = 5.0  # how long a drain that is over waits for a step boundary

    @property
    def heartbeat_seconds(self) -> float:
        """Time between heartbeats: two may fail before the lease is over."""
        return min(self.lease_seconds / 3, self.heartbeat_limit_seconds)


class Worker:
    """Runs jobs until it is drained. Make it when the engine is ready."""

    def __init__(
        self,
        broker: JobQueue,
        engine: Engine,
        settings: WorkerSettings,
        *,
        metrics: ServerMetrics,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self._broker = broker
        self._engine = engine
        self._settings = settings
        self._metrics = metrics
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._link = BrokerLink()
        self._drain = Drain(settings.drain_seconds)
        self._reporter = Reporter(
            broker,
            self._link,
            self._drain,
            metrics,
            Retries(settings.retry_seconds, settings.retry_limit_seconds),
            load_seconds=engine.description.load_seconds,
            tracer=tracer,
        )
        self._is_instant = engine.description.is_instant
        self._asked_at_seconds = 0.0  # for the latest claim, on the monotonic clock
        self._max_images = max(settings.max_batch_images, INSTANT_BATCH_IMAGES if self._is_instant else 0)

    def drain(self) -> None:
        """Take no further job; finish those in hand if ``drain_seconds`` allow. Made for a signal handler."""
        self._drain.start()

    async def run(self) -> None:
        """Work until drained. Broker outages are outlived; anything unforeseen is raised."""
        reporting: asyncio.Task[None] | None = None
        try:
            while not self._drain.is_started:
                claims = await self._claim()
                if reporting is not None and reporting.done():
                    reporting.result()
                if claims:
                    reporting = await self._work(claims, reporting)
            if reporting is not None:
                await reporting
        finally:
            self._executor.shutdown(wait=False)

    async def _claim(self) -> tuple[Claim, ...]:
        settings = self._settings
        self._asked_at_seconds = time.monotonic()
        try:
            claims = await self._broker.claim(
                settings.name,
                lease_seconds=settings.lease_seconds,
                wait_seconds=settings.claim_wait_seconds,
                max_jobs=self._max_images,
                max_images=self._max_images,
            )
        except StoreUnavailableError as error:
            self._link.note_outage(error)
            await self._drain.pause(settings.retry_seconds)
            return ()
        self._link.note_return()
        return claims

    async def _work(self, claims: Sequence[Claim], before: asyncio.Task[None] | None) -> asyncio.Task[None]:
        """Draw a batch; the task is done when it is reported too. One that is still being reported is awaited."""
        is_drawn = asyncio.get_running_loop().create_future()
        carrying = asyncio.create_task(self._carry(claims, is_drawn), name="batch")
        await asyncio.wait({carrying, is_drawn}, return_when=asyncio.FIRST_COMPLETED)
        if before is not None:
            await before
        return carrying

    async def _carry(self, claims: Sequence[Claim], is_drawn: asyncio.Future[None]) -> None:
        """Bring a batch from its claim to its last report; ``is_drawn`` is done when the engine is free."""
        settling: list[asyncio.Task[None]] = []

        def settle(job: JobRun) -> None:
            settling.append(self._reporter.settle(batch, job))

        period_seconds = self._settings.heartbeat_seconds
        heartbeats = Heartbeats(self._broker, self._link, period_seconds=period_seconds, on_stopped=settle)
        batch = Batch(self._engine, claims, heartbeats.hurry, asked_at_seconds=self._asked_at_seconds)
        with self._metrics.working_on(len(claims)):
            beating = asyncio.create_task(heartbeats.run(batch), name="heartbeats")
            try:
                await self._draw(batch)
                is_drawn.set_result(None)
                await heartbeats.flush(batch)
                for job in batch.jobs:
                    if not job.is_settling:
                        settle(job)
                await asyncio.gather(*settling)
            finally:
                heartbeats.end()
                await beating

    async def _draw(self, batch: Batch) -> None:
        """Until it is drawn or the drain is over; a job that isn't drawn then has neither images nor an error."""
        if self._drain.is_started:
            return
        _log_start(batch.jobs, logging.DEBUG if self._is_instant else logging.INFO)
        self._metrics.count_batch(batch.images)
        with self._metrics.drawing.running():
            drawing = batch.start(self._executor)
            if not drawing.done():
                await self._until_done_or_drained(drawing, batch)
            if drawing.done():
                drawing.result()

    async def _until_done_or_drained(self, drawing: asyncio.Future[None], batch: Batch) -> None:
        draining = asyncio.ensure_future(self._drain.wait())
        either: set[asyncio.Future[Any]] = {drawing, draining}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        draining.cancel()
        if drawing.done():
            return
        done, _ = await asyncio.wait({drawing}, timeout=self._drain.left_seconds)
        if not done:
            batch.stop(StopReason.DRAIN)
            await asyncio.wait({drawing}, timeout=self._settings.step_limit_seconds)


def _log_start(jobs: Sequence[JobRun], level: int) -> None:
    if not logger.isEnabledFor(level):
        return
    for job in jobs:
        parameters = job.parameters
        with logged_for(job.claim.job.request_id):
            logger.log(
                level,
                "job %s: attempt %d, %dx%d pixels, %d image(s), %d steps, drawn with %d other(s)",
                *(job.claim.job.id, job.claim.job.attempts, parameters.width_pixels, parameters.height_pixels),
                *(parameters.images, parameters.steps, len(jobs) - 1),
            )
