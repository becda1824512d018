"""What gateways and workers ask of a broker: protocols, frozen values and errors. No I/O lives here.

Two implementations keep the same promises: ``memory`` (one process) and ``redis`` (any number of pods). The clock that
counts is the broker's own: it stamps jobs, expires leases and passes deadlines, so pods' clocks are never compared.

A job is executed at least once and completed exactly once: ``finish`` is accepted from the holder of the current
claim only. Every method may raise StoreUnavailableError, and every method may be repeated safely after it.
"""


class StoreError(Exception):
    """Base of everything that a broker raises on purpose."""


class StoreUnavailableError(StoreError):
    """The broker can't be reached or can't serve now. Nothing is known of the request's effect: repeat it."""

    def __init__(self, address: str, operation: str, reason: str, next_step: str) -> None:
        self.address = address
        self.operation = operation
        self.reason = reason
        super().__init__(f"broker at {address} is unavailable: {operation} failed with {reason}; {next_step}")
