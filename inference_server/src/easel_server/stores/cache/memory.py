"""The outbox, the result cache, the facts and the buckets of one process. No jobs live here."""

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta

from easel_server.stores.cache.interface import CachedImages
from easel_server.stores.outbox.memory import Clock


@dataclass(frozen=True)
class _CachedEntry:
    images: tuple[bytes, ...]
    drawn_at: datetime
    expires_at: datetime
    size_bytes: int


class MemoryResultCache:
    """See interface.ResultCache."""

    def __init__(self, clock: Clock, max_bytes: int) -> None:
        self._clock = clock
        self._max_bytes = max_bytes
        self._entries: OrderedDict[str, _CachedEntry] = OrderedDict()  # the least recently used first
        self._bytes = 0

    def get(self, key: str) -> CachedImages | None:
        """The images, or None."""
        entry = self._entries.get(key)
        now = self._clock()
        if entry is None:
            return None
        if entry.expires_at <= now:
            self._remove(key)
            return None
        self._entries.move_to_end(key)
        return CachedImages(entry.images, max(0.0, (now - entry.drawn_at).total_seconds()))

    def put(self, key: str, images: tuple[bytes, ...], ttl_seconds: float, age_seconds: float) -> None:
        """Keep the images; the least recently used entries make room."""
        if key in self._entries:
            self._remove(key)
        now = self._clock()
        entry = _CachedEntry(
            images,
            drawn_at=now - timedelta(seconds=age_seconds),
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
