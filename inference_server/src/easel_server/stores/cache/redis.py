"""The result cache on Redis: each step is one script in ``lua/``."""

import json

from typing_extensions import override

from easel_server.stores.cache.interface import CachedImages, ResultCache
from easel_server.stores.redis.connection import MICROSECONDS, MILLISECONDS, RedisConnection


class RedisResultCache(ResultCache):
    """Images that all gateways of a service share."""

    def __init__(self, connection: RedisConnection, max_bytes: int) -> None:
        self._connection = connection
        self._max_bytes = max_bytes

    @override
    async def get(self, key: str) -> CachedImages | None:
        reply = await self._connection.script("cache/get", key)
        if not reply:
            return None
        warnings, age_us, *images = reply
        try:
            warned = tuple(json.loads(warnings or b"[]"))
        except (TypeError, ValueError):
            self._connection.dropped.note("cache", key, "its warnings can't be read")
            return None
        return CachedImages(tuple(images), int(age_us) / MICROSECONDS, warned)

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
        await self._connection.script(
            "cache/put",
            key,
            round(ttl_seconds * MILLISECONDS),
            round(age_seconds * MICROSECONDS),
            self._max_bytes,
            CachedImages(images, age_seconds, warnings).size_bytes,
            json.dumps(warnings) if warnings else "",
            *images,
        )
