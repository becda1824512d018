"""A gateway's own copies of what doesn't change under its key, bounded in bytes and in age. Nothing is shared here."""

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from cachetools import TLRUCache

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Entry(Generic[T]):
    value: T
    size_bytes: int
    made_at_seconds: float  # on the clock of the cache that holds it
    expires_at_seconds: float


class LocalCache(Generic[T]):
    """The least recently used entries make room, those that have expired before them."""

    def __init__(self, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: TLRUCache[Hashable, _Entry[T]] = TLRUCache(
            maxsize=max_bytes,
            ttu=lambda _key, entry, _now: entry.expires_at_seconds,
            timer=clock,
            getsizeof=lambda entry: entry.size_bytes,
        )

    @property
    def size_bytes(self) -> int:
        """Of all entries together."""
        return int(self._entries.currsize)

    def get(self, key: Hashable) -> tuple[T, float] | None:
        """The value and its age in seconds, or None."""
        try:
            entry = self._entries[key]
        except KeyError:
            return None
        return entry.value, self._clock() - entry.made_at_seconds

    def put(self, key: Hashable, value: T, *, size_bytes: int, age_seconds: float, ttl_seconds: float) -> None:
        """Keep a value that is ``age_seconds`` old for ``ttl_seconds`` more, in place of what was there.

        One above the budget isn't kept, and neither is what was there.
        """
        now = self._clock()
        self._entries.pop(key, None)
        if size_bytes <= self._entries.maxsize:
            self._entries[key] = _Entry(value, size_bytes, now - age_seconds, now + ttl_seconds)
