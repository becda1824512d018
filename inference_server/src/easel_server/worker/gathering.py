"""Brings what claimed jobs need beside the model to this machine, while others are generated.

A few jobs may wait for it without taking the room of others. One that is stopped meanwhile, or takes too long, leaves
at once; its download goes on for the next that needs it. What can't be had for good ends its job; what may be had later
costs an attempt, after a pause, so that attempts aren't used up within a moment.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from easel_server.engine.interface import Engine, GatheringError, GenerationError, StopGenerationError
from easel_server.stores.errors import StoreError
from easel_server.stores.facts.add_on_contents import AddOnContents
from easel_server.telemetry.logs import logged_for
from easel_server.telemetry.metrics import ServerMetrics
from easel_server.worker.job_run import JobRun, StopReason

MAX_GATHERING: Final = 4  # jobs that don't take others' room; and downloads at a time
GATHER_SECONDS: Final = 900.0

logger = logging.getLogger(__name__)


class Gatherer:
    """Of one worker. ``on_gathered`` is called in the event loop with each job that has what it needs, or has ended."""

    def __init__(
        self,
        engine: Engine,
        metrics: ServerMetrics,
        *,
        on_gathered: Callable[[JobRun], None],
        pause_seconds: float,
        contents: AddOnContents | None = None,
        gather_seconds: float = GATHER_SECONDS,
    ) -> None:
        self._engine = engine
        self._metrics = metrics
        self._on_gathered = on_gathered
        self._contents = contents
        self._gather_seconds = gather_seconds
        self._pause_seconds = pause_seconds
        self._stopped: dict[JobRun, asyncio.Event] = {}  # of those whose add-ons are on their way
        self._tasks: dict[JobRun, asyncio.Task[None]] = {}
        self._executor = ThreadPoolExecutor(max_workers=MAX_GATHERING, thread_name_prefix="gather")

    @property
    def runs(self) -> Sequence[JobRun]:
        """Those on whose way here add-ons are."""
        return tuple(self._tasks)

    @property
    def holding_room(self) -> Sequence[JobRun]:
        """Of those, the ones beyond the few that take no room of others."""
        return tuple(self._tasks)[MAX_GATHERING:]

    def begin(self, run: JobRun) -> None:
        """Bring what it needs."""
        self._stopped[run] = asyncio.Event()
        with logged_for(run.job.request_id):
            self._tasks[run] = asyncio.create_task(self._gather(run), name=f"gather-{run.job.id}")

    def stop(self, run: JobRun) -> None:
        """It was stopped: it needs nothing any more."""
        if run in self._stopped:
            self._stopped[run].set()

    def stop_all(self, reason: StopReason) -> None:
        """The same for all."""
        for run, stopped in self._stopped.items():
            run.stop(reason)
            stopped.set()

    def close(self) -> None:
        """What is still on its way is left behind."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _gather(self, run: JobRun) -> None:
        began_at_seconds = time.monotonic()
        error = await self._find_error(run)
        if error is not None:
            run.error = error
            run.has_left_engine = True
        elif run.job.add_ons:
            await self._report_contents(run)
            seconds = time.monotonic() - began_at_seconds
            self._metrics.observe_gathering(seconds, sum(each.downloaded_bytes for each in run.gathered))
            logger.debug("job %s: its add-ons are here after %.1f s", run.job.id, seconds)
        del self._tasks[run], self._stopped[run]
        self._on_gathered(run)

    async def _report_contents(self, run: JobRun) -> None:
        """Gateways look images up by them; one that can't be said is no reason to wait."""
        if self._contents is None:
            return
        try:
            await self._contents.report({each.key: each.digest for each in run.gathered})
        except StoreError as error:
            logger.debug("job %s: what its add-ons hold isn't reported: %s", run.job.id, error)

    async def _find_error(self, run: JobRun) -> Exception | None:
        """What keeps a job from being generated."""
        call = asyncio.get_running_loop().run_in_executor(
            self._executor, self._engine.gather, run.job.parameters, run.job.add_ons
        )
        stopping = asyncio.create_task(self._stopped[run].wait())
        awaited: set[asyncio.Future[Any]] = {call, stopping}
        done, _ = await asyncio.wait(awaited, timeout=self._gather_seconds, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if run.stop_reason is not None:
            _leave_behind(call)
            return StopGenerationError(run.stop_reason)
        if call not in done:
            _leave_behind(call)
            return self._fail(run, "timeout", GatheringError(_describe_slow(run, self._gather_seconds)))
        failure = call.exception()
        if failure is None:
            run.gathered = call.result()
            return None
        if isinstance(failure, GenerationError):
            return self._fail(run, "permanent", failure)
        return await self._fail_later(run, failure)

    async def _fail_later(self, run: JobRun, failure: BaseException) -> Exception:
        if isinstance(failure, OSError):
            error = self._fail(run, "transient", GatheringError(str(failure)))
        else:  # nobody foresaw it: the traceback is what helps
            logger.error("job %s: gathering its add-ons failed", run.job.id, exc_info=failure)
            error = self._fail(run, "unforeseen", GatheringError(f"its add-ons can't be had: {type(failure).__name__}"))
        try:
            await asyncio.wait_for(self._stopped[run].wait(), self._pause_seconds)
        except TimeoutError:
            return error
        return StopGenerationError(run.stop_reason)

    def _fail(self, run: JobRun, kind: str, error: Exception) -> Exception:
        self._metrics.count_gather_failure(kind)
        logger.warning("job %s: %s", run.job.id, error)
        return error


def _describe_slow(run: JobRun, seconds: float) -> str:
    named = ", ".join(each.name for each in run.job.add_ons)
    return f"{named} took more than {seconds:g} s to come; check the network of the workers, or use smaller files"


def _leave_behind(call: asyncio.Future[Any]) -> None:
    """It goes on, for whoever needs the same next; what it fails with was asked for by nobody."""
    call.cancel()
    call.add_done_callback(lambda done: done.cancelled() or done.exception())
