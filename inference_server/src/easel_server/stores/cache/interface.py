"""What gateways and workers ask of a broker: protocols, frozen values and errors. No I/O lives here.

Two implementations keep the same promises: ``memory`` (one process) and ``redis`` (any number of pods). The clock that
counts is the broker's own: it stamps jobs, expires leases and passes deadlines, so pods' clocks are never compared.

A job is executed at least once and completed exactly once: ``finish`` is accepted from the holder of the current
claim only. Every method may raise StoreUnavailableError, and every method may be repeated safely after it.
"""

from dataclasses import dataclass
from typing import Final, Protocol

CACHE_ENTRY_OVERHEAD_BYTES: Final = 512  # keys and books, so that many small entries are bounded too


@dataclass(frozen=True)
class CachedImages:
    """An entry of the result cache."""

    images: tuple[bytes, ...]
    age_seconds: float  # since it was drawn

    @property
    def size_bytes(self) -> int:
        """What it takes of a cache's budget."""
        return CACHE_ENTRY_OVERHEAD_BYTES + sum(map(len, self.images))


class ResultCache(Protocol):
    """Images by the hash of everything that determines them (``digests.result_cache_key``).

    Bounded in bytes: the entries that were used least recently make room.
    """

    async def cache_get(self, key: str) -> CachedImages | None:
        """The cached images, or None."""
        ...

    async def cache_put(
        self, key: str, images: tuple[bytes, ...], *, ttl_seconds: float, age_seconds: float = 0.0
    ) -> None:
        """Keep the images, drawn ``age_seconds`` ago, for ``ttl_seconds`` (> 0), replacing what was there.

        Images that are larger together than the cache's budget aren't kept.
        """
        ...
