"""Jobs that one call of the engine draws, in a thread, watched and stopped one by one from the event loop."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

from easel_server.engine.interface import Engine, EngineRequest, Step, StopGenerationError
from easel_server.generation.cost import Measurement, work_units
from easel_server.generation.parameters import GenerationParameters
from easel_server.stores.jobs.interface import Claim
from easel_server.worker.outcomes import StopReason

logger = logging.getLogger(__name__)


class JobRun:
    """One job of a batch.

    Its attributes are plain: one thread writes each, and a reader that sees it late loses nothing.
    """

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.steps_done = 0
        self.stop_reason: StopReason | None = None
        self.is_settling = False  # its outcome is on its way to the broker
        self.is_settled = False  # reported, handed back or lost: nothing is left to do for it
        self.images: tuple[bytes, ...] | None = None
        self.error: Exception | None = None
        self.measurement: Measurement | None = None  # of its part in the call that drew it
        self.unsent_previews: deque[bytes] = deque()
        self._preview_steps = deque(choose_preview_steps(self.parameters.steps, claim.job.wanted_previews))

    @property
    def parameters(self) -> GenerationParameters:
        """What is drawn."""
        return self.claim.job.parameters

    def stop(self, reason: StopReason) -> None:
        """Ask for its end; the first reason stands."""
        if self.stop_reason is None:
            self.stop_reason = reason

    def take_preview_turn(self, steps_done: int) -> bool:
        """Whether a preview is due; steps that were skipped over don't fall due again."""
        is_due = False
        while self._preview_steps and self._preview_steps[0] <= steps_done:
            self._preview_steps.popleft()
            is_due = True
        return is_due and self.stop_reason is None


def choose_preview_steps(steps: int, previews: int) -> list[int]:
    """After which steps to show the picture: evenly spaced, never after the last."""
    return sorted({steps * number // (previews + 1) for number in range(1, previews + 1)} - {0})


class Batch:
    """Started once with ``start``. It ends early when every job of it has been stopped, at the next step."""

    def __init__(
        self,
        engine: Engine,
        claims: Sequence[Claim],
        notify_preview: Callable[[], None],
        *,
        asked_at_seconds: float | None = None,
    ) -> None:
        """``notify_preview`` is called on the event loop when a job has a preview to send.

        ``asked_at_seconds``: when the claims were asked for, on the monotonic clock.
        """
        self.jobs = tuple(JobRun(claim) for claim in claims)
        self._engine = engine
        self._notify_preview = notify_preview
        self._loop = asyncio.get_running_loop()
        self.claimed_at_seconds = self.started_at_seconds = time.monotonic()
        self.asked_at_seconds = self.claimed_at_seconds if asked_at_seconds is None else asked_at_seconds
        self.steps_at_seconds: list[float] = []
        self.last_step_at_seconds = self.started_at_seconds
        self.ended_at_seconds = self.started_at_seconds

    @property
    def images(self) -> int:
        """Of all its jobs."""
        return sum(job.parameters.images for job in self.jobs)

    def start(self, executor: Executor) -> asyncio.Future[None]:
        """Draw in the executor's thread. When the future is done, each job has its images or its error.

        An engine that takes no time draws at once: the way to a thread and back would take longer.
        """
        if not self._engine.description.is_instant:
            return self._loop.run_in_executor(executor, self._run)
        self._run()
        done = self._loop.create_future()
        done.set_result(None)
        return done

    def stop(self, reason: StopReason) -> None:
        """Ask for the end of all its jobs."""
        for job in self.jobs:
            job.stop(reason)

    def _run(self) -> None:
        self.started_at_seconds = self.last_step_at_seconds = time.monotonic()
        try:
            self._draw(self.jobs)
        finally:
            self.ended_at_seconds = time.monotonic()

    def _draw(self, jobs: Sequence[JobRun]) -> None:
        began = time.monotonic()
        self.steps_at_seconds = []
        requests = [EngineRequest(job.parameters, job.claim.inputs) for job in jobs]
        try:
            drawn = self._engine.generate(requests, lambda step: self._on_step(jobs, step))
        except Exception as error:
            self._draw_apart(jobs, error)
            return
        seconds_per_unit = (time.monotonic() - began) / sum(work_units(job.parameters) for job in jobs)
        for job, images in zip(jobs, drawn, strict=True):
            units = work_units(job.parameters)
            job.images = tuple(images)
            job.measurement = Measurement(units, units * seconds_per_unit)

    def _draw_apart(self, jobs: Sequence[JobRun], error: Exception) -> None:
        """What failed together is tried alone: a job fails by its own fault only, and memory is enough for each."""
        if len(jobs) > 1 and not isinstance(error, StopGenerationError):
            logger.warning("a batch of %d jobs failed with %s, each is drawn alone", len(jobs), type(error).__name__)
            for job in jobs:
                if job.stop_reason is None:
                    self._draw([job])
            return
        for job in jobs:
            job.error = error

    def _on_step(self, jobs: Sequence[JobRun], step: Step) -> None:
        self.last_step_at_seconds = time.monotonic()
        self.steps_at_seconds.append(self.last_step_at_seconds)
        if all(job.stop_reason is not None for job in jobs):
            raise StopGenerationError(jobs[0].stop_reason)
        for job in jobs:
            job.steps_done = max(job.steps_done, step.done)  # it may have got further in a batch that failed
        due = [job for job in jobs if job.take_preview_turn(step.done)]
        if not due:
            return
        for job, preview in zip(jobs, step.draw_previews(), strict=False):  # none, if the model has no previews
            if job in due:
                job.unsent_previews.append(preview)
        self._loop.call_soon_threadsafe(self._notify_preview)
