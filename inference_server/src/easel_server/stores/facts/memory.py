"""The outbox, the result cache, the facts and the buckets of one process. No jobs live here."""

from datetime import datetime, timedelta

from easel_server.stores.outbox.memory import Clock


class MemoryFacts:
    """See interface.FactStore."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._facts: dict[str, tuple[bytes, datetime]] = {}

    def get(self, name: str) -> bytes | None:
        """The fact, or None."""
        value, expires_at = self._facts.get(name, (None, self._clock()))
        return value if expires_at > self._clock() else None

    def put(self, name: str, value: bytes, ttl_seconds: float) -> None:
        """Tell a fact."""
        self._facts[name] = (value, self._clock() + timedelta(seconds=ttl_seconds))
