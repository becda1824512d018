"""What becomes of a submitted job: its end, its images, and the cache that they are kept in for the next request."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from easel_contract.gateway_config import CacheConfig

from easel_server.gateway.ending import Ending
from easel_server.gateway.local_cache import LocalCache
from easel_server.gateway.refusals import (
    RefusalError,
    refuse_for_model,
    refuse_lost,
    refuse_removed,
    refuse_to_nobody,
    refuse_unknown_prediction,
)
from easel_server.generation.job import Job, JobState
from easel_server.generation.messages import CONTENT_REFUSED
from easel_server.generation.models import build_cache_key
from easel_server.generation.request import CachePolicy, job_id_for_client_id
from easel_server.stores.cache.interface import CachedImages, ResultCache
from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.images.interface import ImagesGoneError, ImageStore
from easel_server.stores.jobs.interface import JobStore

KEPT_JOBS_REMEMBERED: Final = 10_000
SAME_AGE_SECONDS: Final = 1.0
# As long as OpenAI's own clients wait by default. A job that hasn't ended by then fails, since nobody waits for it.
LOOK_SECONDS: Final = 2.0  # between looks whether a waiting client waits for nothing
WAIT: Final = timedelta(minutes=10)
DEADLINE_MARGIN: Final = timedelta(seconds=5)  # the wait outlives the deadline, so that the client reads which it was

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _LocalImages:
    images: tuple[bytes, ...]
    warnings: tuple[str, ...]
    job_id: str | None  # that generated them, as far as is known


class Results:
    """Jobs and their images, as their owners may see them; in front of the shared cache, this gateway's own copies."""

    def __init__(
        self,
        jobs: JobStore,
        images: ImageStore,
        cache: ResultCache,
        config: CacheConfig,
        ending: Ending,
        clock: Callable[[], float] = time.monotonic,
        *,
        load_failure: Callable[[], Awaitable[str | None]],
    ) -> None:
        """``load_failure`` says why no worker holds the model, if that is so."""
        self._jobs = jobs
        self._load_failure = load_failure
        self._ending = ending
        self._images = images
        self._cache = cache
        self._config = config
        # Half of the gateway's budget; transport/cached_answers.py has the other.
        self._local: LocalCache[_LocalImages] = LocalCache(config.gateway_bytes // 2, clock)
        self._kept_jobs: OrderedDict[str, None] = OrderedDict()

    async def find(self, job_id: str, owner: str) -> Job:
        """The owner's job. Raises RefusalError (404) if there is none, and StoreUnavailableError."""
        job = await self._find_own(job_id, owner) or await self._jobs.get(job_id_for_client_id(owner, job_id))
        if job is None:
            raise refuse_unknown_prediction(job_id)
        return job

    async def find_linked(self, job_id: str) -> Job:
        """The job, whoever its owner is: for links that carry their own right. Raises as ``find``."""
        job = await self._jobs.get(job_id)
        if job is None:
            raise refuse_unknown_prediction(job_id)
        return job

    async def choose_id(self, client_id: str, owner: str) -> str:
        """The id of the job that this owner calls so: the owner's own ids mean what they mean, others' mean nothing."""
        return client_id if await self._find_own(client_id, owner) else job_id_for_client_id(owner, client_id)

    async def _find_own(self, job_id: str, owner: str) -> Job | None:
        job = await self._jobs.get(job_id)
        return job if job is not None and job.owner == owner else None

    async def cancel(self, job_id: str, owner: str) -> Job:
        """Ask for the end of the owner's job. Raises as ``find``."""
        found = await self.find(job_id, owner)
        return await self._jobs.cancel(job_id) or found

    async def abandon(self, job: Job) -> None:
        """Ask for the end of a job that nobody waits for any more, if there still is one. Nobody hears of trouble."""
        try:
            await self._jobs.cancel(job.id)
        except StoreUnavailableError as error:
            logger.warning("%s goes on though its client has left: %s", job.id, error)

    async def wait(self, job: Job, timeout_seconds: float) -> Job:
        """The job once it is final, or as it is after the time-out or when this gateway ends. Images go into the cache.

        Raises RefusalError (503) if the job is lost meanwhile, and StoreUnavailableError.
        """
        if job.state.is_final:
            return job
        waiting = asyncio.ensure_future(self._jobs.wait(job.id, timeout_seconds))
        with self._ending.watched() as ending:
            try:
                awaited: set[asyncio.Future[Any]] = {waiting, ending}
                await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
                ended = waiting.result() if waiting.done() else await self._look_again(job)
            finally:
                waiting.cancel()
        if ended is None:
            raise refuse_lost(job.id)
        if ended.state is JobState.SUCCEEDED and ended.cache_key is not None:
            with suppress(RefusalError, StoreUnavailableError):  # whoever wants the images themselves will hear of it
                await self.images(ended)
        return ended

    async def _look_again(self, job: Job) -> Job:
        with suppress(StoreUnavailableError):
            return await self._jobs.get(job.id) or job
        return job

    async def wait_while_connected(self, job: Job, receive: Callable[[], Awaitable[Any]], *, cancel: bool) -> Job:
        """The job at its end; its client keeps its request open until then.

        ``receive`` returns when the client says anything more, which after its body can only be that it leaves. Then
        the job is cancelled if it may be: nobody else waits for it. Raises as ``wait``, and RefusalError (503) when
        this gateway ends before the job, which goes on, or when no worker can load the model that it waits for.
        """
        if job.state.is_final:
            return job
        waiting = asyncio.create_task(self.wait(job, (WAIT + DEADLINE_MARGIN).total_seconds()))
        leaving = asyncio.ensure_future(receive())
        try:
            futures: set[asyncio.Future[Any]] = {waiting, leaving}
            while not await _is_any_done(futures, LOOK_SECONDS):
                with suppress(StoreUnavailableError):  # the wait outlives short outages
                    await self.check_loading(job, cancel=cancel)
            if waiting.done():
                ended = waiting.result()
                if not ended.state.is_final and self._ending.has_begun:
                    raise self._ending.refuse(job.id)
                return ended
            if cancel:
                await self.abandon(job)
            raise refuse_to_nobody("its images were ready")
        finally:
            waiting.cancel()
            leaving.cancel()

    async def check_loading(self, job: Job, *, cancel: bool) -> None:
        """Raise RefusalError (503) if the job waits, and no worker can load its model; it is cancelled if it may be.

        Raises StoreUnavailableError.
        """
        if (failure := await self._load_failure()) is None:
            return
        now = await self._jobs.get(job.id)
        if now is not None and now.state is JobState.WAITING:
            if cancel:
                await self.abandon(job)
            raise refuse_for_model(failure)

    async def images(self, job: Job, *, has_just_ended: bool = False) -> tuple[bytes, ...]:
        """The encoded images of a finished job. Whoever reads them first puts them into the cache.

        Raises RefusalError: 404 if they have expired meanwhile or were removed, 503 if they are lost of a job that
        ``has_just_ended`` while its client waited. Raises StoreUnavailableError too.
        """
        if job.data_removed:
            raise refuse_removed(job.id)
        key = None
        if job.state is JobState.SUCCEEDED and job.cache_key is not None and job.generated_by is not None:
            key = build_cache_key(job.cache_key, job.generated_by)
        if key is not None and (local := self._local.get(key)) is not None and local[0].job_id == job.id:
            return local[0].images
        try:
            images = await self._images.get(job.images)
        except ImagesGoneError:
            images = ()
        if not images:
            raise refuse_lost(job.id) if has_just_ended else refuse_unknown_prediction(job.id)
        if key is not None:
            age = datetime.now(UTC) - (job.finished_at or job.submitted_at)
            generated = CachedImages(images, max(0.0, age.total_seconds()), job.generation_warnings)
            await self.keep(job.id, key, generated)
        return images

    async def remove_delivered(self, job: Job) -> None:
        """Remove the images of a job whose client has them and can't ask again; what was cached stays cached."""
        try:
            await self._jobs.remove_data(job.id)
        except StoreUnavailableError as error:
            logger.debug("images that were delivered stay until they expire: %s", error)

    async def image_urls(self, job: Job) -> tuple[str | None, ...]:
        """Where each image of a finished job can be fetched without this service; None where it can't."""
        return await find_image_urls(self._images, job)

    @property
    def is_cache_enabled(self) -> bool:
        """Whether anything is kept at all."""
        return self._config.ttl_seconds > 0

    async def find_cached(self, key: str, policy: CachePolicy) -> CachedImages | None:
        """Images that the policy accepts, or None. Raises StoreUnavailableError."""
        if not policy.read:
            return None
        if (local := self._local.get(key)) is not None and policy.accepts(local[1]):
            return CachedImages(local[0].images, local[1], local[0].warnings)
        found = await self._cache.get(key)
        if found is None or not policy.accepts(found.age_seconds):
            return None
        self._keep_locally(key, found, job_id=None)
        return found

    async def keep(self, job_id: str, key: str, generated: CachedImages) -> None:
        """Put a job's images into the cache, once. They are the client's whatever becomes of this."""
        ttl_seconds = self._config.ttl_seconds - generated.age_seconds
        is_too_large = sum(map(len, generated.images)) > self._config.max_entry_bytes
        if job_id in self._kept_jobs or is_too_large or ttl_seconds <= 0:
            return
        self._remember(job_id)
        local = self._local.get(key)
        if local is not None and local[1] < generated.age_seconds + SAME_AGE_SECONDS:
            return  # an equal request's, that shared the same images or generated newer ones
        self._keep_locally(key, generated, job_id)
        try:
            await self._cache.put(
                key,
                generated.images,
                ttl_seconds=ttl_seconds,
                age_seconds=generated.age_seconds,
                warnings=generated.warnings,
            )
        except StoreUnavailableError as error:
            logger.warning("a result was not cached: %s", error)

    def _keep_locally(self, key: str, generated: CachedImages, job_id: str | None) -> None:
        self._local.put(
            key,
            _LocalImages(generated.images, generated.warnings, job_id),
            size_bytes=generated.size_bytes,
            age_seconds=generated.age_seconds,
            ttl_seconds=self._config.ttl_seconds - generated.age_seconds,
        )

    def _remember(self, job_id: str) -> None:
        self._kept_jobs[job_id] = None
        while len(self._kept_jobs) > KEPT_JOBS_REMEMBERED:
            self._kept_jobs.popitem(last=False)


async def _is_any_done(futures: set[asyncio.Future[Any]], timeout_seconds: float) -> bool:
    done, _ = await asyncio.wait(futures, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
    return bool(done)


async def find_image_urls(images: ImageStore, job: Job) -> tuple[str | None, ...]:
    """Where each image of a finished job can be fetched without this service; None, or none at all, where it can't."""
    if all(reference.bucket is None for reference in job.images):
        return ()
    try:
        return tuple([await images.url(reference) for reference in job.images])
    except StoreUnavailableError as error:
        logger.warning("links lead through the gateway for now: %s", error)
        return ()


def expect_success(job: Job) -> Job:
    """The job. Raises RefusalError that says why there are no images."""
    if job.state is JobState.SUCCEEDED:
        return job
    if job.state is JobState.CANCELED:
        raise RefusalError(422, "canceled", f"request {job.id} was cancelled")
    is_late = job.deadline_at is not None and datetime.now(UTC) >= job.deadline_at
    if is_late or not job.state.is_final:
        seconds = WAIT.total_seconds()
        message = f"no images within {seconds:.0f} s; for work that may wait longer use POST /v1/predictions"
        raise RefusalError(504, "deadline_exceeded", message)
    if (job.error or "").startswith(CONTENT_REFUSED):
        raise RefusalError(422, "content_policy_violation", job.error or "")
    raise RefusalError(422, "generation_failed", job.error or f"request {job.id} failed")
