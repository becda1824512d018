"""What gateways ask of the result cache. No I/O lives here."""

from dataclasses import dataclass
from typing import Final, Protocol

CACHE_ENTRY_OVERHEAD_BYTES: Final = 512  # keys and books, so that many small entries are bounded too


@dataclass(frozen=True)
class CachedImages:
    """An entry of the result cache."""

    images: tuple[bytes, ...]
    age_seconds: float  # since it was generated
    warnings: tuple[str, ...] = ()  # what its job was warned of

    @property
    def size_bytes(self) -> int:
        """What it takes of a cache's budget."""
        return CACHE_ENTRY_OVERHEAD_BYTES + sum(map(len, self.images)) + sum(map(len, self.warnings))


class ResultCache(Protocol):
    """Images by the hash of everything that determines them (``models.build_cache_key``).

    Bounded in bytes: the entries that were used least recently make room.
    """

    async def get(self, key: str) -> CachedImages | None:
        """The cached images, or None."""
        ...

    async def put(
        self,
        key: str,
        images: tuple[bytes, ...],
        *,
        ttl_seconds: float,
        age_seconds: float = 0.0,
        warnings: tuple[str, ...] = (),
    ) -> None:
        """Keep the images, generated ``age_seconds`` ago, for ``ttl_seconds`` (> 0), replacing what was there.

        Images that are larger together than the cache's budget aren't kept.
        """
        ...
