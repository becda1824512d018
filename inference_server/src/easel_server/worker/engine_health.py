"""Whether an engine still works, by the errors that no request is to blame for.

what happened                                      what it means
-------------                                      -------------
GenerationError, memory that ran out               the request's fault
GatheringError                                     the fault of where its add-ons come from
an error that a GPU doesn't recover from           broken, until a new process has it
any other error                                    in doubt: a request that is known to be good is tried
the trial fails, or doesn't end                    broken
MAX_FAILED_JOBS in a row, though trials succeed    broken

A broken engine takes its worker out: it claims nothing more, releases what it had (uncounted are the attempts of jobs
that didn't fail), and its process ends.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from easel_server.engine.interface import ContentRefusedError, Engine, NonFiniteError, build_trial
from easel_server.worker.engine_errors import describe_error, is_engine_error, is_fatal_error
from easel_server.worker.engine_thread import EngineThread
from easel_server.worker.job_run import JobRun

MAX_FAILED_JOBS: Final = 5  # in a row, each counted once however often it was tried
TRIAL_SECONDS: Final = 120.0  # a bound: one step, on whatever a worker runs on

logger = logging.getLogger(__name__)


class EngineFailedError(Exception):
    """The engine generates nothing any more; only a new process may. The message says what it failed with."""


class EngineHealth:
    """Of one worker's engine."""

    def __init__(self, engine: Engine, thread: EngineThread, *, trial_seconds: float = TRIAL_SECONDS) -> None:
        self._engine = engine
        self._thread = thread
        self._trial_seconds = trial_seconds
        self.failed_jobs: set[str] = set()  # in a row
        self.failure: str | None = None  # set once it is broken: what it failed with

    async def examine(self, runs: Sequence[JobRun]) -> None:
        """Judge the engine by jobs that have left it; nothing is generated meanwhile."""
        errors = {run.job.id: run.error for run in runs if run.error is not None and is_engine_error(run.error)}
        if any(run.error is None for run in runs):
            self.failed_jobs.clear()
        if not errors:
            return
        self.failed_jobs |= errors.keys()
        error = next((error for error in errors.values() if is_fatal_error(error)), next(iter(errors.values())))
        self.failure = self._judge(error) or await self._try(error)
        if self.failure is not None:
            logger.error("the engine is broken, this worker ends: %s", self.failure)

    def _judge(self, error: BaseException) -> str | None:
        if is_fatal_error(error):
            return f"the engine failed with {describe_error(error)}"
        if len(self.failed_jobs) >= MAX_FAILED_JOBS:
            return f"the engine failed on {len(self.failed_jobs)} jobs in a row, at last with {describe_error(error)}"
        return None

    async def _try(self, error: BaseException) -> str | None:
        trial = build_trial(self._engine.description.defaults)
        try:
            await asyncio.wait_for(asyncio.shield(self._thread.generate(trial)), self._trial_seconds)
        except TimeoutError:
            return f"after {describe_error(error)} the engine took more than {self._trial_seconds:g} s for a trial"
        except (NonFiniteError, ContentRefusedError):
            pass  # it ran: a single step is more than some schedulers can do, and may look like anything
        except Exception as second:
            return f"the engine failed with {describe_error(error)}, and on a trial with {describe_error(second)}"
        logger.warning("the engine failed with %s, and then passed a trial", type(error).__name__)
        return None
