"""The result cache as a gateway uses it: its own copy first, then the shared one."""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from easel_contract.server_config import CacheConfig

from easel_server.generation.request import CachePolicy
from easel_server.stores.cache.interface import CachedImages, ResultCache
from easel_server.stores.errors import StoreUnavailableError

KEPT_JOBS_REMEMBERED = 10_000


SAME_AGE_SECONDS = 1.0


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _LocalImages:
    images: tuple[bytes, ...]
    job_id: str | None  # that drew them, as far as is known


class ResultStore:
    """Images by everything that determines them."""

    def __init__(self, shared: ResultCache, config: CacheConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._shared = shared
        self._config = config
        # Half of the gateway's budget; cached_answers.py has the other.
        self._local: LocalCache[_LocalImages] = LocalCache(config.gateway_bytes // 2, clock)
        self._kept_jobs: OrderedDict[str, None] = OrderedDict()

    @property
    def is_enabled(self) -> bool:
        """Whether anything is kept at all."""
        return self._config.ttl_seconds > 0

    def ttl_seconds(self, age_seconds: float) -> float:
        """How much longer images of this age are good."""
        return max(0.0, self._config.ttl_seconds - age_seconds)

    async def find(self, key: str, policy: CachePolicy) -> CachedImages | None:
        """Images that the policy accepts, or None. Raises StoreUnavailableError."""
        if not policy.read:
            return None
        if (local := self._local.get(key)) is not None and policy.accepts(local[1]):
            return CachedImages(local[0].images, local[1])
        found = await self._shared.cache_get(key)
        if found is None or not policy.accepts(found.age_seconds):
            return None
        self._keep_locally(key, found, job_id=None)
        return found

    def find_drawn_by(self, job_id: str, key: str) -> tuple[bytes, ...] | None:
        """The images of this very job, if there is a copy here."""
        local = self._local.get(key)
        return local[0].images if local is not None and local[0].job_id == job_id else None

    async def keep(self, job_id: str, key: str, drawn: CachedImages) -> None:
        """Keep a job's images, once. They are the client's whatever becomes of this."""
        ttl_seconds = self.ttl_seconds(drawn.age_seconds)
        is_too_large = sum(map(len, drawn.images)) > self._config.max_entry_bytes
        if job_id in self._kept_jobs or is_too_large or ttl_seconds <= 0:
            return
        self._remember(job_id)
        local = self._local.get(key)
        if local is not None and local[1] < drawn.age_seconds + SAME_AGE_SECONDS:
            return  # an equal request's, that shared the same images or drew newer ones
        self._keep_locally(key, drawn, job_id)
        try:
            await self._shared.cache_put(key, drawn.images, ttl_seconds=ttl_seconds, age_seconds=drawn.age_seconds)
        except StoreUnavailableError as error:
            logger.warning("a result was not cached: %s", error)

    def _keep_locally(self, key: str, drawn: CachedImages, job_id: str | None) -> None:
        self._local.put(
            key,
            _LocalImages(drawn.images, job_id),
            size_bytes=drawn.size_bytes,
            age_seconds=drawn.age_seconds,
            ttl_seconds=self.ttl_seconds(drawn.age_seconds),
        )

    def _remember(self, job_id: str) -> None:
        self._kept_jobs[job_id] = None
        while len(self._kept_jobs) > KEPT_JOBS_REMEMBERED:
            self._kept_jobs.popitem(last=False)


T = TypeVar("T")


@dataclass(frozen=True)
class LocalEntry(Generic[T]):
    """A copy."""

    value: T
    size_bytes: int
    drawn_at_seconds: float  # on the clock of the cache that holds it
    expires_at_seconds: float


class LocalCache(Generic[T]):
    """Entries that don't change under their key. The least recently used make room."""

    def __init__(self, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._entries: OrderedDict[Hashable, LocalEntry[T]] = OrderedDict()
        self._bytes = 0

    @property
    def size_bytes(self) -> int:
        """Of all entries together."""
        return self._bytes

    def get(self, key: Hashable) -> tuple[T, float] | None:
        """The value and its age in seconds, or None."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        now = self._clock()
        if entry.expires_at_seconds <= now:
            self._remove(key)
            return None
        self._entries.move_to_end(key)
        return entry.value, now - entry.drawn_at_seconds

    def put(self, key: Hashable, value: T, *, size_bytes: int, age_seconds: float, ttl_seconds: float) -> None:
        """Keep a value that is ``age_seconds`` old for ``ttl_seconds`` more; one above the budget isn't kept."""
        if key in self._entries:
            self._remove(key)
        if size_bytes > self._max_bytes or ttl_seconds <= 0:
            return
        now = self._clock()
        self._entries[key] = LocalEntry(value, size_bytes, now - age_seconds, now + ttl_seconds)
        self._bytes += size_bytes
        while self._bytes > self._max_bytes:
            self._remove(next(iter(self._entries)))

    def _remove(self, key: Hashable) -> None:
        self._bytes -= self._entries.pop(key).size_bytes
