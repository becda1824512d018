"""Facts on Redis.

<prefix>fact:<name>  string  what processes of the service report to each other
"""

from typing_extensions import override

from easel_server.stores.facts.interface import FactStore
from easel_server.stores.redis.connection import MILLISECONDS, RedisConnection


class RedisFacts(FactStore):
    """Facts that all processes of a service share."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection

    @override
    async def get(self, name: str) -> bytes | None:
        fact: bytes | None = await self._connection.command("GET", self._key(name))
        return fact

    @override
    async def put(self, name: str, value: bytes, *, ttl_seconds: float) -> None:
        await self._connection.command("SET", self._key(name), value, "PX", round(ttl_seconds * MILLISECONDS))

    @override
    async def remove(self, name: str) -> None:
        await self._connection.command("DEL", self._key(name))

    def _key(self, name: str) -> str:
        return self._connection.key(f"fact:{name}")
