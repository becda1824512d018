"""All that happens in the engine's thread: jobs are begun, take their steps together, and leave, each by itself.

Only ``encode_images`` is called elsewhere, so that the next step doesn't wait for it.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from easel_server.engine.interface import Engine, StopGenerationError, generate_alone
from easel_server.generation.parameters import GenerationParameters
from easel_server.worker.job_run import JobRun, StopReason
from easel_server.worker.watchdog import Watchdog

logger = logging.getLogger(__name__)

T = TypeVar("T")


class EngineThread:
    """One engine and its thread. An engine that takes no time is called at once: the way to a thread takes longer."""

    def __init__(self, engine: Engine, watchdog: Watchdog, *, on_preview: Callable[[], None]) -> None:
        """``on_preview`` is called in the event loop when a job has a preview to send."""
        self._engine = engine
        self._watchdog = watchdog
        self._on_preview = on_preview
        self._loop = asyncio.get_running_loop()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")

    def close(self) -> None:
        """Take nothing more; a call that never returns is left behind."""
        self._executor.shutdown(wait=False)

    def advance(self, runs: Sequence[JobRun]) -> asyncio.Future[None]:
        """Begin those that haven't begun, and take one step; whoever was stopped leaves, or has ended, leaves."""
        if not self._engine.description.is_instant:
            return self._submit(lambda: self._advance(runs))
        self._advance(runs)
        done = self._loop.create_future()
        done.set_result(None)
        return done

    def generate(self, parameters: GenerationParameters) -> asyncio.Future[list[bytes]]:
        """The images of a request that nobody waits for, while all others stand still."""
        return self._submit(lambda: generate_alone(self._engine, parameters))

    def _submit(self, call: Callable[[], T]) -> asyncio.Future[T]:
        return self._loop.run_in_executor(self._executor, call)

    def _advance(self, runs: Sequence[JobRun]) -> None:
        for run in runs:
            if run.stop_reason is not None:
                self._stop(run)
            elif run.generation is None and not run.has_left_engine:
                self._begin(run)
        live = [run for run in runs if not run.has_left_engine]
        if live:
            self._step(live)
        previews = [self._take_preview(run) for run in live if run.preview_steps]
        if any(previews):
            self._loop.call_soon_threadsafe(self._on_preview)
        for run in live:
            if run.generation is not None and (run.generation.is_done or run.error is not None):
                self._leave(run)
            elif run.stop_reason is not None:
                self._stop(run)

    def _begin(self, run: JobRun) -> None:
        run.began_at_seconds = run.last_step_at_seconds = time.monotonic()
        claim = run.claim
        try:
            with self._watchdog.watching("beginning a request"):
                run.generation = self._engine.begin(
                    run.job.parameters, claim.inputs, checkpoint=claim.checkpoint, add_ons=run.job.add_ons
                )
        except Exception as error:
            self._fail(run, error)
            return
        run.gpu_seconds += time.monotonic() - run.began_at_seconds
        run.steps_done = run.begun_steps = run.generation.steps_done  # 0 if the checkpoint wasn't this model's
        if run.generation.is_done:
            self._leave(run)

    def _step(self, live: Sequence[JobRun]) -> None:
        generations = [run.generation for run in live if run.generation is not None]
        own_seconds = [each.own_seconds for each in generations]
        began_at = time.monotonic()
        try:
            with self._watchdog.watching("a step"):
                self._engine.step(generations)
        except Exception as error:  # which the engine doesn't lay at anybody's door
            for run in live:
                run.error = error
        ended_at = time.monotonic()
        own_seconds = [each.own_seconds - before for each, before in zip(generations, own_seconds, strict=True)]
        rows = [run.images_count * run.job.parameters.passes for run in live]
        shared_seconds = max(0.0, ended_at - began_at - sum(own_seconds))
        for run, generation, own, count in zip(live, generations, own_seconds, rows, strict=True):
            run.gpu_seconds += own + shared_seconds * count / sum(rows)
            run.steps_done = generation.steps_done
            # What a job that is done has spent alone, it has spent on decoding.
            run.last_step_at_seconds = ended_at - own if generation.is_done else ended_at
            run.stepped_at_seconds.append(run.last_step_at_seconds)
            run.most_jobs = max(run.most_jobs, len(live))

    def _take_preview(self, run: JobRun) -> bool:
        """Whether there is one now. One that fails costs nobody anything else."""
        if run.generation is None or run.generation.is_done or not run.take_due_preview():
            return False
        began_at = time.monotonic()
        try:
            with self._watchdog.watching("a preview"):
                preview = run.generation.build_preview()
        except Exception:
            logger.exception("job %s: no preview", run.job.id)
            return False
        run.gpu_seconds += time.monotonic() - began_at
        if preview is not None:
            run.unsent_previews.append(preview)
        return preview is not None

    def _leave(self, run: JobRun) -> None:
        """It is done, with images or an error."""
        generation = run.generation
        run.error = run.error or (generation.error if generation is not None else None)
        if run.error is not None:
            self._fail(run, run.error)
            return
        run.warnings = self._list_warnings(run)
        run.has_left_engine = True

    def _fail(self, run: JobRun, error: Exception) -> None:
        run.error = error
        self._end(run)

    def _stop(self, run: JobRun) -> None:
        """It is to end before it is done; what a worker that is drained has of it goes on."""
        generation = run.generation
        if generation is not None and run.stop_reason is StopReason.DRAIN:
            try:
                with self._watchdog.watching("a checkpoint"):
                    run.checkpoint = generation.checkpoint()
            except Exception:
                logger.exception("job %s: no checkpoint, it will begin anew", run.job.id)
        run.error = run.error or StopGenerationError(run.stop_reason)
        self._end(run)

    def _end(self, run: JobRun) -> None:
        """Whatever it held is free."""
        run.has_left_engine = True
        if run.generation is None:
            return
        try:
            run.generation.stop()
        except Exception:
            logger.exception("job %s: it can't be stopped in order", run.job.id)

    def _list_warnings(self, run: JobRun) -> tuple[str, ...]:
        warnings = run.generation.warnings if run.generation is not None else ()
        try:
            warnings += self._engine.list_warnings(run.job.parameters)
        except Exception:  # the images are there, whatever can be said of them
            logger.exception("job %s: it isn't known whether it was done as asked", run.job.id)
        for warning in warnings:
            logger.info("job %s: %s", run.job.id, warning)
        return warnings
