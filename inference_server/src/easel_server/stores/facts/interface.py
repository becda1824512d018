"""What gateways and workers ask of a broker: protocols, frozen values and errors. No I/O lives here.

Two implementations keep the same promises: ``memory`` (one process) and ``redis`` (any number of pods). The clock that
counts is the broker's own: it stamps jobs, expires leases and passes deadlines, so pods' clocks are never compared.

A job is executed at least once and completed exactly once: ``finish`` is accepted from the holder of the current
claim only. Every method may raise StoreUnavailableError, and every method may be repeated safely after it.
"""

from typing import Protocol


class FactStore(Protocol):
    """Small facts that workers tell gateways, such as what suits the model. They aren't evicted."""

    async def get_fact(self, name: str) -> bytes | None:
        """The fact, or None."""
        ...

    async def put_fact(self, name: str, value: bytes, *, ttl_seconds: float) -> None:
        """Tell a fact."""
        ...
