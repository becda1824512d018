"""Claims jobs while there is room for them: one claim at a time, whatever the engine is doing meanwhile.

A worker that generates nothing takes what is next, and others of its size. One that is generating takes the next in
turn if it is of the same size and fits; if it isn't, nobody joins, so that the room gets free for it.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from easel_server.engine.interface import Engine
from easel_server.generation.parameters import GenerationParameters
from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.jobs.fair_queue import PRIORITIES
from easel_server.stores.jobs.interface import Claim, JobQueue, Joining
from easel_server.worker.drain import Drain
from easel_server.worker.heartbeats import OutageLog
from easel_server.worker.job_run import JobRun

INSTANT_IMAGES: Final = 64  # of an engine that takes no time: fewer round trips, and nobody waits for the others
MAX_SIZES: Final = 32  # that bounds are remembered of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClaimRequest:
    """What a worker may take now; see JobQueue.claim."""

    max_images: int
    max_images_of: Mapping[str, int]
    joining: Joining | None = None


class Room:
    """How many images are generated at once."""

    def __init__(self, engine: Engine, max_images: int | None) -> None:
        """``max_images`` of any size; None: what the engine says of each."""
        self._engine = engine
        self._is_instant = engine.description.is_instant
        self._max_images = max(max_images or 1, INSTANT_IMAGES) if self._is_instant else max_images
        self._max_images_of: dict[str, int] = {}  # sizes that were asked for

    def decide(self, live: Sequence[JobRun], reporting: Sequence[JobRun]) -> ClaimRequest | None:
        """What to claim beside what is being generated and reported; None if there is no room."""
        images = sum(run.images_count for run in live)
        if not live:
            most, joining = self._max_images or 1, None
        elif self._is_instant or any(run.claim.is_alone for run in live):
            return None  # done before a claim would be
        else:
            parameters = live[0].job.parameters
            most = self._find_bound(parameters)
            highest = min((run.job.priority for run in live), key=PRIORITIES.index)
            joining = Joining(parameters.batch_key, highest)
        if joining is not None and images >= most:
            return None
        # While the place for images is away, what was generated piles up here: as much again as may be generated.
        largest = max((run.images_count for run in (*live, *reporting)), default=0)
        if images + sum(run.images_count for run in reporting) >= 2 * max(most, largest, *self._max_images_of.values()):
            return None
        return ClaimRequest(most - images, self._max_images_of, joining)

    def has_place(self, run: JobRun, live: Sequence[JobRun]) -> bool:
        """Whether a claimed job may join those that are being generated."""
        if not live:
            return True
        if self._is_instant or run.claim.is_alone or any(each.claim.is_alone for each in live):
            return False
        parameters = live[0].job.parameters
        images = sum(each.images_count for each in (*live, run))
        return parameters.batch_key == run.job.parameters.batch_key and images <= self._find_bound(parameters)

    def _find_bound(self, parameters: GenerationParameters) -> int:
        if self._max_images is not None:
            return self._max_images
        most = self._engine.max_images(*parameters.image_size)
        self._max_images_of.pop(parameters.batch_key, None)
        self._max_images_of[parameters.batch_key] = most
        if len(self._max_images_of) > MAX_SIZES:
            del self._max_images_of[next(iter(self._max_images_of))]
        return most


@dataclass(frozen=True)
class ClaimSettings:
    """Of a worker; times in seconds."""

    name: str
    models: Sequence[str]
    lease_seconds: float
    wait_seconds: float
    retry_seconds: float


class Claimer:
    """Claims until drained or closed."""

    def __init__(
        self,
        queue: JobQueue,
        settings: ClaimSettings,
        drain: Drain,
        outages: OutageLog,
        *,
        decide: Callable[[], ClaimRequest | None],
        on_claimed: Callable[[Sequence[Claim], float], None],
    ) -> None:
        """``on_claimed`` gets claims, and when they were asked for by the monotonic clock."""
        self._queue = queue
        self._settings = settings
        self._drain = drain
        self._outages = outages
        self._decide = decide
        self._on_claimed = on_claimed
        self._changed = asyncio.Event()
        self._is_closed = False
        self._waiting: asyncio.Task[None] | None = None  # for work that may join

    def look_again(self) -> None:
        """There may be room now, or the drain has begun."""
        self._changed.set()

    def close(self) -> None:
        """Claim nothing more."""
        self._is_closed = True
        self._changed.set()

    async def run(self) -> None:
        """Outages of the store are outlived."""
        try:
            while not (self._is_closed or self._drain.is_started):
                self._changed.clear()
                request = self._decide()
                if request is None:
                    await self._changed.wait()
                    continue
                asked_at_seconds = time.monotonic()
                claims = await self._claim(request)
                if claims:
                    self._on_claimed(claims, asked_at_seconds)
                elif request.joining is not None:
                    await self._wait_for_work()
        finally:
            if self._waiting is not None:
                self._waiting.cancel()

    async def _claim(self, request: ClaimRequest) -> tuple[Claim, ...]:
        settings = self._settings
        try:
            claims = await self._queue.claim(
                settings.name,
                settings.models,
                lease_seconds=settings.lease_seconds,
                wait_seconds=0 if request.joining else settings.wait_seconds,
                max_jobs=max(request.max_images, *request.max_images_of.values(), 1),
                max_images=request.max_images,
                max_images_of=request.max_images_of,
                joining=request.joining,
            )
        except StoreUnavailableError as error:
            self._outages.note_outage(error)
            await self._drain.pause(settings.retry_seconds)
            return ()
        self._outages.note_answer()
        return claims

    async def _wait_for_work(self) -> None:
        """Until something may have come, or the room is another."""
        if self._waiting is None:
            waiting = self._queue.wait_for_work(self._settings.models, self._settings.wait_seconds)
            self._waiting = asyncio.create_task(waiting, name="waiting-for-work")
        changed = asyncio.create_task(self._changed.wait())
        await asyncio.wait({self._waiting, changed}, return_when=asyncio.FIRST_COMPLETED)
        changed.cancel()
        if not self._waiting.done():
            return  # it goes on: what it wakes up for is looked for by the next claim
        error = self._waiting.exception()
        self._waiting = None
        if isinstance(error, StoreUnavailableError):
            self._outages.note_outage(error)
            await self._drain.pause(self._settings.retry_seconds)
        elif error is not None:
            raise error
