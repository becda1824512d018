"""Facts of one process."""

from datetime import datetime, timedelta

from typing_extensions import override

from easel_server.stores.facts.interface import FactStore
from easel_server.stores.memory_wakeups import Clock


class MemoryFacts(FactStore):
    """Facts by name."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._facts: dict[str, tuple[bytes, datetime]] = {}

    @override
    async def get(self, name: str) -> bytes | None:
        value, expires_at = self._facts.get(name, (None, self._clock()))
        return value if expires_at > self._clock() else None

    @override
    async def put(self, name: str, value: bytes, *, ttl_seconds: float) -> None:
        self._facts[name] = (value, self._clock() + timedelta(seconds=ttl_seconds))

    @override
    async def remove(self, name: str) -> None:
        self._facts.pop(name, None)
