"""The worker's loop: claim, generate, report, one job at a time; and the drain that ends it."""

import asyncio
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from easel_server.broker.interface import (
    BrokerUnavailableError,
    Claim,
    JobQueue,
    Outcome,
    Verdict,
)
from easel_server.engine.interface import Engine, GenerationError, StopGenerationError
from easel_server.job import JobState
from easel_server.metrics import JobTiming, ServerMetrics
from easel_server.worker.generation import Generation, StopReason
from easel_server.worker.outcomes import decide_outcome

logger = logging.getLogger(__name__)

STOP_REASONS: Final = {
    Verdict.CANCEL: StopReason.CANCEL,
    Verdict.DEADLINE_PASSED: StopReason.DEADLINE_PASSED,
    Verdict.LOST: StopReason.LOST,
}


@dataclass(frozen=True)
class WorkerSettings:
    """Times of a worker, in seconds."""

    name: str  # the pod's
    lease_seconds: float
    drain_seconds: float
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
    """Runs jobs until it is drained."""

    def __init__(
        self,
        broker: JobQueue,
        engine: Engine,
        settings: WorkerSettings,
        *,
        metrics: ServerMetrics,
    ) -> None:
        self._broker = broker
        self._engine = engine
        self._settings = settings
        self._metrics = metrics
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._is_broker_away = False
        self._draining = asyncio.Event()
        self._drain_ends_at_seconds = float("inf")  # on the event loop's clock

    def drain(self) -> None:
        """Take no further job; finish the current one if ``drain_seconds`` allow. Made for a signal handler."""
        if self._draining.is_set():
            return
        logger.info("draining for at most %g s", self._settings.drain_seconds)
        self._drain_ends_at_seconds = asyncio.get_running_loop().time() + self._settings.drain_seconds
        self._draining.set()

    async def run(self) -> None:
        """Work until drained. Broker outages are outlived; anything unforeseen is raised."""
        try:
            while not self._draining.is_set():
                claim = await self._claim()
                if claim is None:
                    continue
                if self._draining.is_set():
                    await self._release(claim)
                else:
                    await self._work(claim)
        finally:
            self._executor.shutdown(wait=False)

    async def _claim(self) -> Claim | None:
        settings = self._settings
        try:
            claim = await self._broker.claim(
                settings.name, lease_seconds=settings.lease_seconds, wait_seconds=settings.claim_wait_seconds
            )
        except BrokerUnavailableError as error:
            self._note_outage(error)
            await self._pause(settings.retry_seconds)
            return None
        self._note_return()
        return claim

    async def _work(self, claim: Claim) -> None:
        parameters = claim.job.parameters
        logger.info(
            "job %s: attempt %d, %dx%d pixels, %d image(s), %d steps",
            *(claim.job.id, claim.job.attempts, parameters.width_pixels, parameters.height_pixels),
            *(parameters.images, parameters.steps),
        )
        generation = Generation(self._engine, parameters)
        with self._metrics.jobs_in_flight.track_inprogress():
            async with self._heartbeats(claim, generation):
                outcome = await self._generate(claim, generation)
                if outcome is not None:
                    await self._finish(claim, generation, outcome)
                elif generation.stop_reason == StopReason.DRAIN:
                    await self._release(claim)
                else:
                    logger.warning("job %s: the claim was lost, its result is dropped", claim.job.id)

    async def _generate(self, claim: Claim, generation: Generation) -> Outcome | None:
        generating = generation.start(self._executor)
        await self._until_done_or_drained(generating, generation)
        if not generating.done():  # no step boundary came in time
            return None
        error = generating.exception()
        if error is not None and not isinstance(error, StopGenerationError | GenerationError):
            logger.error("job %s: the engine failed", claim.job.id, exc_info=error)
        images = generating.result() if error is None else None
        return decide_outcome(generation.stop_reason, images, error, claim.job.parameters)

    async def _until_done_or_drained(
        self, generating: asyncio.Future[tuple[bytes, ...]], generation: Generation
    ) -> None:
        draining = asyncio.ensure_future(self._draining.wait())
        either: set[asyncio.Future[Any]] = {generating, draining}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        draining.cancel()
        if generating.done():
            return
        left_seconds = max(0.0, self._drain_ends_at_seconds - asyncio.get_running_loop().time())
        done, _ = await asyncio.wait({generating}, timeout=left_seconds)
        if not done:
            generation.stop(StopReason.DRAIN)
            await asyncio.wait({generating}, timeout=self._settings.step_limit_seconds)

    @asynccontextmanager
    async def _heartbeats(self, claim: Claim, generation: Generation) -> AsyncIterator[None]:
        over = asyncio.Event()
        beating = asyncio.create_task(self._beat(claim, generation, over), name=f"heartbeat-{claim.job.id}")
        try:
            yield
        finally:
            over.set()
            await beating

    async def _beat(self, claim: Claim, generation: Generation, over: asyncio.Event) -> None:
        while not await _is_set_within(over, self._settings.heartbeat_seconds):
            try:
                verdict = await self._broker.heartbeat(claim, generation.steps_done)
            except BrokerUnavailableError as error:
                self._note_outage(error)
                continue
            self._note_return()
            if verdict in STOP_REASONS:
                generation.stop(STOP_REASONS[verdict])

    async def _finish(self, claim: Claim, generation: Generation, outcome: Outcome) -> None:
        """Report the outcome, as often as it takes: the work is done, and only this process has it."""
        pause_seconds = self._settings.retry_seconds
        while True:
            try:
                accepted = await self._broker.finish(claim, outcome)
                break
            except BrokerUnavailableError as error:
                self._note_outage(error)
                if self._is_drain_over():
                    logger.error(
                        "job %s: its outcome is lost with this pod, another worker repeats the job: %s",
                        claim.job.id,
                        error,
                    )
                    return
            await self._pause(pause_seconds)
            pause_seconds = min(2 * pause_seconds, self._settings.retry_limit_seconds)
        if not accepted:
            logger.warning("job %s: the claim was lost, its result is dropped", claim.job.id)
            return
        state = JobState(type(outcome).__name__)
        timing = _build_timing(claim, generation)
        self._metrics.count_job(state, timing)
        logger.info("job %s: %s after %.2f s", claim.job.id, state, timing.run_seconds + timing.encode_seconds)

    async def _release(self, claim: Claim) -> None:
        try:
            await self._broker.release(claim)
            logger.info("job %s: released to the head of the queue", claim.job.id)
        except BrokerUnavailableError as error:
            logger.warning("job %s: not released, its lease will run out: %s", claim.job.id, error)

    def _note_outage(self, error: BrokerUnavailableError) -> None:
        if not self._is_broker_away:
            logger.warning("%s", error)
        self._is_broker_away = True

    def _note_return(self) -> None:
        if self._is_broker_away:
            logger.info("the broker is back")
        self._is_broker_away = False

    def _is_drain_over(self) -> bool:
        return asyncio.get_running_loop().time() >= self._drain_ends_at_seconds

    async def _pause(self, seconds: float) -> None:
        """Wait, and not beyond the end of the drain."""
        left_seconds = self._drain_ends_at_seconds - asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, min(seconds, left_seconds)))


def _build_timing(claim: Claim, generation: Generation) -> JobTiming:
    """Queue time by the broker's clock, the rest by this process's: no two clocks are compared."""
    job = claim.job
    queued = job.started_at - job.submitted_at if job.started_at else None
    return JobTiming(
        queue_seconds=max(0.0, queued.total_seconds()) if queued else 0.0,
        run_seconds=generation.last_step_at_seconds - generation.started_at_seconds,
        encode_seconds=generation.ended_at_seconds - generation.last_step_at_seconds,
    )


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True
