"""What deliverers ask of the outbox. No I/O lives here; jobs put webhooks into it in their own transitions."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, Protocol

from easel_server.generation.job import Job

MAX_ATTEMPTS_PER_HOST: Final = 4  # webhooks that are sent to one host and port at a time, by all gateways together

FindBusyCustomers = Callable[[], Collection[str]]


def find_none() -> Collection[str]:
    """Nobody is busy."""
    return ()


@dataclass(frozen=True)
class Delivery:
    """A webhook that is due, leased to one deliverer."""

    id: str  # stable over retries: the webhook-id header
    event: str  # "start" or "completed"
    url: str
    job: Job  # as it was when the event happened
    attempt: int  # 1 for the first


class WebhookOutbox(Protocol):
    """Webhooks to be sent, written in the same step as the change that they report."""

    async def claim(
        self,
        *,
        lease_seconds: float,
        wait_seconds: float,
        find_busy_customers: FindBusyCustomers = find_none,
    ) -> Delivery | None:
        """The delivery that has been due longest; it falls due again after the lease unless settled or postponed.

        Deliveries to a host where MAX_ATTEMPTS_PER_HOST are under way let those to other hosts go before, and those of
        busy customers, who are asked for at each look, those of others.
        """
        ...

    async def settle(self, delivery: Delivery) -> None:
        """Forget a delivery: it was received, or is not tried again."""
        ...

    async def postpone(self, delivery: Delivery, delay_seconds: float) -> None:
        """Make the delivery due again after ``delay_seconds``; no effect if another deliverer has taken it since."""
        ...
