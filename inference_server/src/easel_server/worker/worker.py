"""The worker's loop: claim what there is room for, take a step, settle who is done; until it is drained.

Each job has its own beginning and end: while the engine steps those that are under way, the next is claimed, and what
is done is encoded and reported.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from opentelemetry.trace import Tracer

from easel_server.engine.interface import Engine
from easel_server.generation.models import ModelIdentity
from easel_server.stores.facts.add_on_contents import AddOnContents
from easel_server.stores.images.interface import ImageStore
from easel_server.stores.jobs.interface import Claim, JobQueue
from easel_server.telemetry.logs import logged_for
from easel_server.telemetry.metrics import ServerMetrics
from easel_server.telemetry.tracing import NO_TRACER
from easel_server.worker.claiming import Claimer, ClaimRequest, ClaimSettings, Room
from easel_server.worker.drain import Drain
from easel_server.worker.engine_health import EngineFailedError, EngineHealth
from easel_server.worker.engine_thread import EngineThread
from easel_server.worker.gathering import Gatherer
from easel_server.worker.heartbeats import Heartbeats, OutageLog
from easel_server.worker.job_run import JobRun, StopReason, find_unfinishable
from easel_server.worker.reporting import Reporter, Retries
from easel_server.worker.watchdog import Watchdog

logger = logging.getLogger(__name__)

ENCODING_THREADS: Final = 2  # libraries release the interpreter while they compress


@dataclass(frozen=True)
class WorkerSettings:
    """Bounds of a worker; times in seconds."""

    name: str  # the pod's
    lease_seconds: float
    drain_seconds: float
    max_batch_images: int | None = None  # that are generated together; None: as many as the engine does best
    step_timeout_seconds: float | None = None  # after which a step never ends; None: far longer than any took so far
    claim_wait_seconds: float = 1.0  # how late a drain may be noticed by an idle worker
    heartbeat_limit_seconds: float = 1.0  # how late a cancel may be noticed, at the most
    retry_seconds: float = 0.25  # the first pause while the job store is away
    retry_limit_seconds: float = 5.0  # and the longest
    gather_pause_seconds: float = 5.0  # before an attempt is released whose add-ons couldn't be had
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
        contents: AddOnContents | None = None,
        metrics: ServerMetrics,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        """``identity`` is what the engine holds: jobs for it are claimed, besides those for no model in particular."""
        models = [identity.key] if identity is not None else []
        self._settings = settings
        self._metrics = metrics
        self._is_instant = engine.description.is_instant
        self._live: dict[JobRun, None] = {}  # in the engine's hands, or about to be
        self._gathered: dict[JobRun, None] = {}  # have all they need, and wait for room
        self._reporting: dict[JobRun, asyncio.Task[None]] = {}
        self._has_news = asyncio.Event()  # something was claimed, or nothing will be any more
        self._encoders = ThreadPoolExecutor(max_workers=ENCODING_THREADS, thread_name_prefix="encode")
        self._watchdog = Watchdog(settings.step_timeout_seconds)
        self._room = Room(engine, settings.max_batch_images)
        self._drain = Drain(settings.drain_seconds)
        outages = OutageLog()
        self._reporter = Reporter(
            queue,
            images,
            outages,
            self._drain,
            metrics,
            Retries(settings.retry_seconds, settings.retry_limit_seconds),
            load_seconds=engine.description.load_seconds,
            identity=identity,
            tracer=tracer,
        )
        self._heartbeats = Heartbeats(
            queue,
            outages,
            metrics,
            # Two may fail before the lease is over.
            period_seconds=min(settings.lease_seconds / 3, settings.heartbeat_limit_seconds),
            on_stopped=self._settle_stopped,
            is_engine_stalled=lambda: self._watchdog.find_stall() is not None,
        )
        self._thread = EngineThread(engine, self._watchdog, on_preview=self._heartbeats.report_soon)
        self._health = EngineHealth(engine, self._thread)
        self._gatherer = Gatherer(
            engine,
            metrics,
            on_gathered=self._admit_gathered,
            pause_seconds=settings.gather_pause_seconds,
            contents=contents,
        )
        self._claimer = Claimer(
            queue,
            ClaimSettings(
                settings.name, models, settings.lease_seconds, settings.claim_wait_seconds, settings.retry_seconds
            ),
            self._drain,
            outages,
            decide=self._decide_claim,
            on_claimed=self._take,
        )

    def drain(self) -> None:
        """Take no further job; finish those in hand if ``drain_seconds`` allow. Made for a signal handler."""
        self._drain.start()
        if self._watchdog.find_stall() is not None:
            self._drain.cut_short()
        self._gatherer.stop_all(StopReason.DRAIN)
        self._claimer.look_again()

    def find_stall(self) -> str | None:
        """Why only a new process will generate anything: a call of the engine doesn't return."""
        return self._watchdog.find_stall()

    async def run(self) -> None:
        """Work until drained. Outages of the job store are outlived; anything unforeseen is raised.

        Raises EngineFailedError, once all jobs are reported or released, if the engine generates nothing any more.
        """
        beating = asyncio.create_task(self._heartbeats.run(), name="heartbeats")
        claiming = asyncio.create_task(self._claimer.run(), name="claiming")
        watching = asyncio.create_task(self._gatherer.watch_contents(), name="contents")
        for part in (beating, claiming):
            part.add_done_callback(lambda _: self._has_news.set())
        try:
            while self._live or self._gathered or self._gatherer.runs or not claiming.done():
                if beating.done():
                    beating.result()
                if self._live:
                    await self._advance()
                else:
                    self._has_news.clear()
                    await self._has_news.wait()
            claiming.result()
            await asyncio.gather(*self._reporting.values())
            if self._health.failure is not None:
                raise EngineFailedError(self._health.failure)
        finally:
            self._claimer.close()
            self._heartbeats.end()
            watching.cancel()
            self._thread.close()
            self._gatherer.close()
            self._encoders.shutdown(wait=False)
            await asyncio.wait({beating, claiming, watching})

    # Claims

    def _decide_claim(self) -> ClaimRequest | None:
        if self._gathered:
            return None  # the room that gets free is theirs
        return self._room.decide((*self._live, *self._gatherer.holding_room), tuple(self._reporting))

    def _take(self, claims: Sequence[Claim], asked_at_seconds: float) -> None:
        """Those that were claimed take part from the next step on."""
        for claim in claims:
            run = JobRun(claim, asked_at_seconds=asked_at_seconds)
            run.in_hand.enter_context(self._metrics.working_on(1))
            self._heartbeats.add(run)
            if run.job.add_ons:
                self._gatherer.begin(run)
            else:
                self._live[run] = None
        if self._drain.is_started:  # while the claim was on its way
            self._gatherer.stop_all(StopReason.DRAIN)
        self._has_news.set()
        level = logging.DEBUG if self._is_instant else logging.INFO
        for claim in claims if logger.isEnabledFor(level) else ():
            parameters = claim.job.parameters
            with logged_for(claim.job.request_id):
                logger.log(
                    level,
                    "job %s: attempt %d, %dx%d pixels, %d image(s), %d steps, with %d other(s)",
                    *(claim.job.id, claim.job.attempts, parameters.width_pixels, parameters.height_pixels),
                    *(parameters.images, parameters.steps, max(0, len(self._live) - 1)),
                )

    def _settle_stopped(self, run: JobRun) -> None:
        self._reporter.begin_settling(run)
        self._gatherer.stop(run)

    def _admit_gathered(self, run: JobRun) -> None:
        """It joins when there is room; one that has ended leaves."""
        if run.has_left_engine:
            self._report(run)
        else:
            self._gathered[run] = None
            self._admit()
        self._has_news.set()
        self._claimer.look_again()

    def _admit(self) -> None:
        """Let those join that have what they need, in turn, as far as there is room."""
        for run in tuple(self._gathered):
            if run.stop_reason is None and not self._room.has_place(run, tuple(self._live)):
                return
            del self._gathered[run]
            self._live[run] = None

    # Steps

    async def _advance(self) -> None:
        """One step of all that are live; those that are done, or were stopped, leave."""
        live = tuple(self._live)
        if self._health.failure is None:
            await self._step(live)
        if self._health.failure is not None:
            self._claimer.close()
            _stop_all((*live, *self._gathered), StopReason.ENGINE_FAILED)
            self._gatherer.stop_all(StopReason.ENGINE_FAILED)
        ended = [run for run in live if run.has_left_engine or self._health.failure is not None]
        for run in ended:
            self._begin_finishing(run)
        if ended:
            self._admit()
            self._claimer.look_again()

    async def _step(self, live: Sequence[JobRun]) -> None:
        if self._drain.is_started:
            is_over = self._drain.time_is_up.done()
            _stop_all(live if is_over else find_unfinishable(live, self._drain.seconds_left), StopReason.DRAIN)
        images = sum(run.images_count for run in live if run.stop_reason is None)
        if images:
            self._metrics.count_batch(images)
        with self._metrics.generating.running():
            advancing = self._thread.advance(live)
            if not advancing.done():
                await asyncio.wait({advancing, self._drain.time_is_up}, return_when=asyncio.FIRST_COMPLETED)
            if not advancing.done():
                _stop_all(live, StopReason.DRAIN)
                await asyncio.wait({advancing}, timeout=self._settings.step_limit_seconds)
        if not advancing.done():
            logger.warning("a step doesn't end, and the time to drain is over: its jobs are released as they are")
            for run in live:
                run.has_left_engine = True
            return
        advancing.result()
        ended = [run for run in live if run.has_left_engine]
        if self._health.failed_jobs or any(run.error is not None for run in ended):
            await self._health.examine(ended)

    # Ends

    def _begin_finishing(self, run: JobRun) -> None:
        del self._live[run]
        self._report(run)

    def _report(self, run: JobRun) -> None:
        with logged_for(run.job.request_id):
            self._reporting[run] = asyncio.create_task(self._finish(run), name=f"finish-{run.job.id}")

    async def _finish(self, run: JobRun) -> None:
        """Bring a job that has left the engine to its last report."""
        with run.in_hand:
            if run.generation is not None and run.generation.is_done and run.error is None:
                await self._encode(run)
            run.ended_at_seconds = time.monotonic()
            if run.unsent_previews:
                await self._heartbeats.flush(run)
            if run.settling is not None:
                await run.settling
            else:
                run.settling = asyncio.current_task()
                await self._reporter.settle(run)
        self._heartbeats.remove(run)
        del self._reporting[run]
        self._claimer.look_again()

    async def _encode(self, run: JobRun) -> None:
        """Its images, while the engine goes on."""
        generation = run.generation
        if generation is None or run.settling is not None:
            return
        try:
            if self._is_instant:
                images = generation.encode_images()
            else:
                images = await asyncio.get_running_loop().run_in_executor(self._encoders, generation.encode_images)
            run.images = tuple(images)
        except Exception as error:
            run.error = error


def _stop_all(runs: Sequence[JobRun], reason: StopReason) -> None:
    for run in runs:
        run.stop(reason)
