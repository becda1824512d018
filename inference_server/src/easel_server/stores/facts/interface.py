"""What processes of a service ask of the facts they report to each other. No I/O lives here."""

from typing import Protocol


class FactStore(Protocol):
    """Small facts that workers report to gateways, such as what suits the model. They aren't evicted."""

    async def get(self, name: str) -> bytes | None:
        """The fact, or None."""
        ...

    async def put(self, name: str, value: bytes, *, ttl_seconds: float) -> None:
        """Report a fact."""
        ...

    async def remove(self, name: str) -> None:
        """Forget the value, if there is one. Raises StoreUnavailableError."""
        ...
