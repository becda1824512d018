"""Jobs that one call of the engine generates, in a thread, watched and stopped one by one from the event loop."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor
from enum import StrEnum
from functools import partial

from easel_server.engine.interface import Engine, Step, StopGenerationError
from easel_server.generation.cost import Measurement, work_units
from easel_server.generation.job import Job
from easel_server.stores.jobs.interface import Claim
from easel_server.worker.engine_errors import is_fatal_error

logger = logging.getLogger(__name__)


class StopReason(StrEnum):
    """Why a job is to end early."""

    CANCEL = "Cancel"
    DEADLINE_PASSED = "DeadlinePassed"
    LOST = "Lost"  # another worker has the job
    DRAIN = "Drain"
    UNHEARD = "Unheard"  # its heartbeats don't reach the store, for another reason than an outage


class JobRun:
    """How far a claimed job is, and what became of it.

    Its attributes are plain: one thread writes each, and a reader that sees it late loses nothing.
    """

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.job = claim.job
        self.steps_done = 0
        self.stop_reason: StopReason | None = None
        self.settling: asyncio.Task[None] | None = None  # brings its outcome to the job store
        self.is_settled = False  # reported, released or lost: nothing is left to do for it
        self.images: tuple[bytes, ...] | None = None
        self.warnings: tuple[str, ...] = ()  # of what was done otherwise than asked
        self.error: Exception | None = None
        self.measurement: Measurement | None = None  # of its part in the call that generated it
        self.unsent_previews: deque[bytes] = deque()
        previews = self.job.wanted_previews
        self.preview_steps = deque(choose_preview_steps(self.job.parameters.steps, previews) if previews else ())

    def stop(self, reason: StopReason) -> None:
        """Ask for its end; the first reason stands."""
        if self.stop_reason is None:
            self.stop_reason = reason

    def take_due_preview(self, steps_done: int) -> bool:
        """Whether a preview is due; steps that were skipped over don't fall due again."""
        is_due = False
        while self.preview_steps and self.preview_steps[0] <= steps_done:
            self.preview_steps.popleft()
            is_due = True
        return is_due and self.stop_reason is None


def choose_preview_steps(steps: int, previews: int) -> list[int]:
    """After which steps to show the image: evenly spaced, never after the last."""
    return sorted({steps * number // (previews + 1) for number in range(1, previews + 1)} - {0})


class Batch:
    """Started once with ``start``. It ends early when every job of it has been stopped, at the next step."""

    def __init__(self, engine: Engine, claims: Sequence[Claim], *, asked_at_seconds: float | None = None) -> None:
        """``asked_at_seconds``: when the claims were asked for, on the monotonic clock."""
        self.runs = tuple(JobRun(claim) for claim in claims)
        self.is_report_due = asyncio.Event()  # a job has a preview to send
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self.is_generated = self._loop.create_future()  # done when the engine is free for the next batch
        self.claimed_at_seconds = self.started_at_seconds = time.monotonic()
        self.asked_at_seconds = self.claimed_at_seconds if asked_at_seconds is None else asked_at_seconds
        self.steps_at_seconds: list[float] = []
        self.last_step_at_seconds = self.started_at_seconds
        self.ended_at_seconds = self.started_at_seconds

    def start(self, executor: Executor) -> asyncio.Future[None]:
        """Generate in the executor's thread. When the future is done, each job has its images or its error.

        An engine that takes no time generates at once: the way to a thread and back would take longer.
        """
        if not self._engine.description.is_instant:
            return self._loop.run_in_executor(executor, self._run)
        self._run()
        done = self._loop.create_future()
        done.set_result(None)
        return done

    def stop(self, reason: StopReason) -> None:
        """Ask for the end of all its jobs."""
        for run in self.runs:
            run.stop(reason)

    def _run(self) -> None:
        self.started_at_seconds = self.last_step_at_seconds = time.monotonic()
        try:
            self._generate(self.runs)
        finally:
            self.ended_at_seconds = time.monotonic()

    def _generate(self, runs: Sequence[JobRun]) -> None:
        began = time.monotonic()
        self.steps_at_seconds = []
        parameters = [run.job.parameters for run in runs]
        inputs = {digest: data for run in runs for digest, data in run.claim.inputs.items()}
        try:
            generated = self._engine.generate(parameters, inputs, partial(self._on_step, runs))
        except Exception as error:
            self._generate_apart(runs, error)
            return
        units = [work_units(one) for one in parameters]
        seconds_per_unit = (time.monotonic() - began) / sum(units)
        for run, images, work in zip(runs, generated, units, strict=True):
            run.images = tuple(images)
            run.warnings = self._list_warnings(run.job)
            run.measurement = Measurement(work, work * seconds_per_unit)

    def _list_warnings(self, job: Job) -> tuple[str, ...]:
        try:
            warnings = self._engine.list_warnings(job.parameters)
        except Exception:  # the images are there, whatever can be said of them
            logger.exception("job %s: it isn't known whether it was done as asked", job.id)
            return ()
        for warning in warnings:
            logger.info("job %s: %s", job.id, warning)
        return warnings

    def _generate_apart(self, runs: Sequence[JobRun], error: Exception) -> None:
        """What failed together is tried alone: a job fails by its own fault only, and memory is enough for each.

        Not so where the engine is broken: nothing would come of it but the same error.
        """
        if len(runs) > 1 and not isinstance(error, StopGenerationError) and not is_fatal_error(error):
            logger.warning("a batch of %d jobs failed with %s, each is tried alone", len(runs), type(error).__name__)
            for run in runs:
                if run.stop_reason is None:
                    self._generate([run])
            return
        for run in runs:
            run.error = error

    def _on_step(self, runs: Sequence[JobRun], step: Step) -> None:
        self.last_step_at_seconds = time.monotonic()
        self.steps_at_seconds.append(self.last_step_at_seconds)
        if all(run.stop_reason is not None for run in runs):
            raise StopGenerationError(runs[0].stop_reason)
        for run in runs:
            run.steps_done = max(run.steps_done, step.done)  # it may have got further in a batch that failed
        due = [run for run in runs if run.preview_steps and run.take_due_preview(step.done)]
        if not due:
            return
        for run, preview in zip(runs, step.build_previews(), strict=False):  # none, if the model has no previews
            if run in due:
                run.unsent_previews.append(preview)
        self._loop.call_soon_threadsafe(self.is_report_due.set)
