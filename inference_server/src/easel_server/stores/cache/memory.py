"""The result cache of one process."""

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta

from typing_extensions import override

from easel_server.stores.cache.interface import CachedImages, ResultCache
from easel_server.stores.memory_wakeups import Clock


@dataclass(frozen=True)
class _CachedEntry:
    images: tuple[bytes, ...]
    generated_at: datetime
    expires_at: datetime
    size_bytes: int


class MemoryResultCache(ResultCache):
    """Entries in the order of their last use."""

    def __init__(self, clock: Clock, max_bytes: int) -> None:
        self._clock = clock
        self._max_bytes = max_bytes
        self._entries: OrderedDict[str, _CachedEntry] = OrderedDict()  # the least recently used first
        self._bytes = 0

    @override
    async def get(self, key: str) -> CachedImages | None:
        entry = self._entries.get(key)
        now = self._clock()
        if entry is None:
            return None
        if entry.expires_at <= now:
            self._remove(key)
            return None
        self._entries.move_to_end(key)
        return CachedImages(entry.images, max(0.0, (now - entry.generated_at).total_seconds()))

    @override
    async def put(self, key: str, images: tuple[bytes, ...], *, ttl_seconds: float, age_seconds: float = 0.0) -> None:
        if key in self._entries:
            self._remove(key)
        now = self._clock()
        entry = _CachedEntry(
            images,
            generated_at=now - timedelta(seconds=age_seconds),
            expires_at=now + timedelta(seconds=ttl_seconds),
            size_bytes=CachedImages(images, age_seconds).size_bytes,
        )
        if entry.size_bytes > self._max_bytes:
            return
        self._entries[key] = entry
        self._bytes += entry.size_bytes
        while self._bytes > self._max_bytes:
            self._remove(next(iter(self._entries)))

    def purge(self) -> None:
        """Drop what has expired."""
        now = self._clock()
        for key in [key for key, entry in self._entries.items() if entry.expires_at <= now]:
            self._remove(key)

    def _remove(self, key: str) -> None:
        self._bytes -= self._entries.pop(key).size_bytes
