"""What gateways and workers ask of a broker: protocols, frozen values and errors. No I/O lives here.

Two implementations keep the same promises: ``memory`` (one process) and ``redis`` (any number of pods). The clock that
counts is the broker's own: it stamps jobs, expires leases and passes deadlines, so pods' clocks are never compared.

A job is executed at least once and completed exactly once: ``finish`` is accepted from the holder of the current
claim only. Every method may raise StoreUnavailableError, and every method may be repeated safely after it.
"""

from typing import Protocol

from easel_server.stores.cache.interface import ResultCache
from easel_server.stores.facts.interface import FactStore
from easel_server.stores.jobs.interface import JobQueue, JobStore, Reapable
from easel_server.stores.limits.interface import RateLimiter
from easel_server.stores.outbox.interface import WebhookOutbox


class Broker(JobStore, JobQueue, Reapable, WebhookOutbox, ResultCache, FactStore, RateLimiter, Protocol):
    """All of it, as ``main`` wires it."""

    async def close(self) -> None:
        """Close connections; the broker can't be used afterwards."""
        ...
