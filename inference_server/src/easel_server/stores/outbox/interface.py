"""What gateways and workers ask of a broker: protocols, frozen values and errors. No I/O lives here.

Two implementations keep the same promises: ``memory`` (one process) and ``redis`` (any number of pods). The clock that
counts is the broker's own: it stamps jobs, expires leases and passes deadlines, so pods' clocks are never compared.

A job is executed at least once and completed exactly once: ``finish`` is accepted from the holder of the current
claim only. Every method may raise StoreUnavailableError, and every method may be repeated safely after it.
"""

from dataclasses import dataclass
from typing import Final, Protocol

from easel_server.generation.job import Job

MAX_ATTEMPTS_PER_HOST: Final = 4  # webhooks that are sent to one host and port at a time, by all gateways together


@dataclass(frozen=True)
class Delivery:
    """A webhook that is due, leased to one deliverer."""

    id: str  # stable over retries: the webhook-id header
    event: str  # "start" or "completed"
    url: str
    job: Job  # as it was when the event happened
    attempt: int  # 1 for the first


class WebhookOutbox(Protocol):
    """Webhooks to be sent, written in the same step as the change they tell of."""

    async def claim_delivery(self, *, lease_seconds: float, wait_seconds: float) -> Delivery | None:
        """The delivery that has been due longest; it falls due again after the lease unless settled or postponed.

        Deliveries to a host where MAX_ATTEMPTS_PER_HOST are under way let those to other hosts go before.
        """
        ...

    async def settle_delivery(self, delivery: Delivery) -> None:
        """Forget a delivery: it was received, or is given up."""
        ...

    async def postpone_delivery(self, delivery: Delivery, delay_seconds: float) -> None:
        """Make the delivery due again after ``delay_seconds``; no effect if another deliverer has taken it since."""
        ...
