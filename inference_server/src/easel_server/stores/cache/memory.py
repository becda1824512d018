"""The result cache of one process."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from cachetools import TLRUCache
from typing_extensions import override

from easel_server.stores.cache.interface import CachedImages, ResultCache
from easel_server.stores.memory_wakeups import Clock


@dataclass(frozen=True)
class _CachedEntry:
    images: tuple[bytes, ...]
    warnings: tuple[str, ...]
    generated_at: datetime
    expires_at: datetime
    size_bytes: int


class MemoryResultCache(ResultCache):
    """Entries in the order of their last use."""

    def __init__(self, clock: Clock, max_bytes: int) -> None:
        self._clock = clock
        self._entries: TLRUCache[str, _CachedEntry, datetime] = TLRUCache(
            maxsize=max_bytes,
            ttu=lambda _key, entry, _now: entry.expires_at,
            timer=clock,
            getsizeof=lambda entry: entry.size_bytes,
        )

    @override
    async def get(self, key: str) -> CachedImages | None:
        try:
            entry = self._entries[key]
        except KeyError:
            return None
        age_seconds = max(0.0, (self._clock() - entry.generated_at).total_seconds())
        return CachedImages(entry.images, age_seconds, entry.warnings)

    @override
    async def put(
        self,
        key: str,
        images: tuple[bytes, ...],
        *,
        ttl_seconds: float,
        age_seconds: float = 0.0,
        warnings: tuple[str, ...] = (),
    ) -> None:
        now = self._clock()
        entry = _CachedEntry(
            images,
            warnings,
            generated_at=now - timedelta(seconds=age_seconds),
            expires_at=now + timedelta(seconds=ttl_seconds),
            size_bytes=CachedImages(images, age_seconds, warnings).size_bytes,
        )
        self._entries.pop(key, None)
        if entry.size_bytes <= self._entries.maxsize:
            self._entries[key] = entry

    def purge(self) -> None:
        """Drop what has expired."""
        self._entries.expire()
