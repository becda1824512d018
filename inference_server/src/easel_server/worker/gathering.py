"""Brings what claimed jobs need beside the model to this machine, while others are generated.

Jobs may wait for it without taking the room of others. One that is stopped meanwhile, or takes too long, leaves at
once; its download goes on for the next that needs it. What can't be had for good ends its job; what may be had later
costs an attempt, after a pause, so that attempts aren't used up within a moment. What add-ons can't be had is a metric;
those on volumes are looked for before a job asks for them.

Each add-on is brought once, however many jobs wait for it, and those wait without a thread: a source that never ends
holds up who asked for it, and nobody else. What was here before, or is on a volume, doesn't stand in line behind what
comes from far away; and what is read into memory waits for no network at all.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

from easel_contract.add_ons import AddOnConfig, AddOnsConfig
from easel_contract.server_config import ServerConfig
from pydantic import ValidationError

from easel_server.engine.interface import Engine, GatheredAddOn, GatheringError, GenerationError, StopGenerationError
from easel_server.engine.volumes import find_on_volume, is_on_volume
from easel_server.stores.errors import StoreError
from easel_server.stores.facts.add_on_contents import AddOnContents
from easel_server.telemetry.add_on_problems import AddOnProblems
from easel_server.telemetry.logs import logged_for
from easel_server.telemetry.metrics import ServerMetrics
from easel_server.worker.job_run import JobRun, StopReason

MAX_GATHERING: Final = 64  # jobs that don't take others' room: waiting, they hold next to nothing
FAR_THREADS: Final = 16  # for add-ons that come from far away, each by one
NEAR_THREADS: Final = 8  # for those that are on a volume, or were here before
READERS: Final = 4  # jobs whose add-ons are read into memory at a time
MAX_KNOWN: Final = 2048  # add-ons that were here
GATHER_SECONDS: Final = 900.0
LOOK_AGAIN_SECONDS: Final = 60.0

logger = logging.getLogger(__name__)


class _TookTooLongError(Exception):
    """Nobody waits any more."""


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
        self._reading: dict[JobRun, AddOnConfig] = {}  # the one that is read just now
        self._flights: dict[str, asyncio.Future[GatheredAddOn]] = {}  # add-ons on their way, by key
        self._known: dict[str, AddOnConfig] = {}  # add-ons that were here, by key
        self._downloaded_bytes = 0  # since it was reported
        self._far = ThreadPoolExecutor(max_workers=FAR_THREADS, thread_name_prefix="gather")
        self._near = ThreadPoolExecutor(max_workers=NEAR_THREADS, thread_name_prefix="gather-near")
        self._readers = ThreadPoolExecutor(max_workers=READERS, thread_name_prefix="gather-read")

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
        for executor in (self._far, self._near, self._readers):
            executor.shutdown(wait=False, cancel_futures=True)

    async def _gather(self, run: JobRun) -> None:
        began_at_seconds = time.monotonic()
        error = await self._find_error(run)
        if error is not None:
            run.error = error
            run.has_left_engine = True
        elif run.job.add_ons:
            await self._report_contents(run)
            seconds = time.monotonic() - began_at_seconds
            self._metrics.observe_gathering(seconds, self._downloaded_bytes)
            self._downloaded_bytes = 0
            logger.debug("job %s: its add-ons are here after %.1f s", run.job.id, seconds)
        del self._tasks[run], self._stopped[run]
        self._reading.pop(run, None)
        self._on_gathered(run)

    async def _report_contents(self, run: JobRun) -> None:
        """Gateways look images up by them; one that can't be said is no reason to wait."""
        if self._contents is None:
            return
        try:
            await self._contents.report({each.key: each.digest for each in run.gathered})
        except StoreError as error:
            logger.debug("job %s: what its add-ons hold isn't reported: %s", run.job.id, error)

    async def watch_contents(self, period_seconds: float = LOOK_AGAIN_SECONDS) -> None:
        """Report what files on volumes hold by now that jobs had before, until cancelled.

        A request whose image is cached asks for no file, so nobody else would find that one was written anew. What
        has to be fetched is looked at by jobs alone: each worker asking the Hub would be a load of its own.
        """
        while self._contents is not None:
            await asyncio.sleep(period_seconds)
            for add_on in [each for each in self._known.values() if is_on_volume(each)]:
                try:
                    found = await asyncio.get_running_loop().run_in_executor(self._near, self._engine.bring, add_on)
                    await self._contents.report({found.key: found.digest})
                except (GenerationError, OSError, StoreError) as error:  # jobs will say it, and the look for what lacks
                    logger.debug("%s isn't looked at again for now: %s", add_on.describe(), error)

    async def _find_error(self, run: JobRun) -> Exception | None:
        """What keeps a job from being generated."""
        deadline_seconds = time.monotonic() + self._gather_seconds
        ended = await self._wait(run, [self._bring(each) for each in run.job.add_ons], deadline_seconds)
        if ended is None:
            call = asyncio.get_running_loop().run_in_executor(self._readers, self._read, run)
            ended = await self._wait(run, [call], deadline_seconds)
            if ended is None:
                run.gathered = call.result()
            else:
                _leave_behind(call)
        if run.stop_reason is not None:
            return StopGenerationError(run.stop_reason)
        if ended is None:
            return None
        if isinstance(ended, _TookTooLongError):
            return self._fail_slow(run)
        if isinstance(ended, GenerationError):
            return self._fail(run, "permanent", ended)
        return await self._fail_later(run, ended)

    def _bring(self, add_on: AddOnConfig) -> asyncio.Future[GatheredAddOn]:
        """The one call that brings it, which all who wait for it share, and which none of them ends."""
        flight = self._flights.get(add_on.key)
        if flight is None:
            executor = self._near if add_on.key in self._known or is_on_volume(add_on) else self._far
            flight = asyncio.get_running_loop().run_in_executor(executor, self._engine.bring, add_on)
            self._flights[add_on.key] = flight
            flight.add_done_callback(partial(self._land, add_on))
        return flight

    def _land(self, add_on: AddOnConfig, flight: asyncio.Future[GatheredAddOn]) -> None:
        del self._flights[add_on.key]
        if flight.cancelled():
            return
        if (error := flight.exception()) is not None:
            if isinstance(error, GenerationError | OSError):
                self._metrics.add_on_problems.note_met(add_on, str(error))
            return
        self._downloaded_bytes += flight.result().downloaded_bytes
        self._known.pop(add_on.key, None)
        self._known[add_on.key] = add_on
        if len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]

    def _read(self, run: JobRun) -> tuple[GatheredAddOn, ...]:
        """One after the other, so that it is known which of them can't be had. Blocks; raises as ``Engine.gather``."""
        gathered: list[GatheredAddOn] = []
        for add_on in run.job.add_ons:
            self._reading[run] = add_on
            try:
                gathered += self._engine.gather(run.job.parameters, (add_on,))
            except (GenerationError, GatheringError, OSError) as error:
                self._metrics.add_on_problems.note_met(add_on, str(error))
                raise
            self._metrics.add_on_problems.note_usable(add_on)
        return tuple(gathered)

    async def _wait(
        self, run: JobRun, calls: Sequence[asyncio.Future[Any]], deadline_seconds: float
    ) -> BaseException | None:
        """What the first fails with; _TookTooLongError also where the run was stopped."""
        stopping = asyncio.create_task(self._stopped[run].wait())
        waiting: set[asyncio.Future[Any]] = set(calls)
        try:
            while waiting:
                left_seconds = max(0.0, deadline_seconds - time.monotonic())
                done, _ = await asyncio.wait(
                    {*waiting, stopping}, timeout=left_seconds, return_when=asyncio.FIRST_COMPLETED
                )
                if run.stop_reason is not None or not done:
                    return _TookTooLongError()
                waiting -= done
                errors = [each.exception() for each in done if each is not stopping]
                if (error := next(filter(None, errors), None)) is not None:
                    return error
        finally:
            stopping.cancel()
        return None

    def _fail_slow(self, run: JobRun) -> Exception:
        error = GatheringError(_describe_slow(run, self._gather_seconds))
        reading = self._reading.get(run)
        for add_on in run.job.add_ons:
            if add_on.key in self._flights or add_on is reading:
                self._metrics.add_on_problems.note_met(add_on, str(error))
        return self._fail(run, "timeout", error)

    async def _fail_later(self, run: JobRun, failure: BaseException) -> Exception:
        if isinstance(failure, OSError | GatheringError):
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


async def watch_add_ons(
    configured: AddOnsConfig,
    file: Path | None,
    problems: AddOnProblems,
    *,
    period_seconds: float = LOOK_AGAIN_SECONDS,
) -> None:
    """Look now and then for what is on volumes, ahead of any job that asks for it, until cancelled. ``file`` is the
    configuration's, which may name others by now.

    What has to be fetched isn't looked for: every worker asking the Hub for every add-on would be a load of its own.
    """
    while True:
        configured = _read_add_ons(file) or configured
        found = await asyncio.to_thread(_find_missing, _list_all(configured))
        for each in problems.set_missing(found):
            logger.warning("requests for it would fail: %s", each.message)
        await asyncio.sleep(period_seconds)


def _list_all(add_ons: AddOnsConfig) -> Sequence[AddOnConfig]:
    return (*add_ons.adapters, *add_ons.control_nets, *add_ons.upscalers, *add_ons.preprocessors)


def _read_add_ons(file: Path | None) -> AddOnsConfig | None:
    """None where it can't be read now: what was known stays."""
    if file is None:
        return None
    try:
        return ServerConfig.model_validate_json(file.read_bytes()).add_ons
    except (OSError, ValidationError) as error:
        logger.debug("configuration file %s can't be read for now: %s", file, error)
        return None


def _find_missing(add_ons: Sequence[AddOnConfig]) -> dict[AddOnConfig, str]:
    missing = {}
    for add_on in add_ons:
        if not is_on_volume(add_on):
            continue
        try:
            find_on_volume(add_on)
        except GenerationError as error:
            missing[add_on] = str(error)
        except OSError as error:
            missing[add_on] = f"{add_on.name} ({add_on.source}) can't be looked for: {error.strerror or error}"
    return missing
