"""A gateway's own copies of what is in the shared cache: bounded in bytes, and never older than the original."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class LocalEntry(Generic[T]):
    """A copy."""

    value: T
    size_bytes: int
    generated_at_seconds: float  # on the clock of the cache that holds it
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
        return entry.value, now - entry.generated_at_seconds

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
