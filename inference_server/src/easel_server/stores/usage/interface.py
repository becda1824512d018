"""The ledger of usage: what each customer's jobs took, by the day on which they ended. No I/O lives here.

The store of jobs adds each in the transaction that ends it, so that it counts once. Days are UTC's, by the store's
clock.
"""

from dataclasses import dataclass
from datetime import date
from typing import Final, Protocol

from easel_contract.metrics import OTHER_CUSTOMERS

USAGE_DAYS: Final = 93  # that are kept, today among them: a quarter
MAX_CUSTOMERS: Final = 1000  # of one day, by name; what others do after them is OTHERS'
OTHERS: Final = OTHER_CUSTOMERS


@dataclass(frozen=True)
class CustomerUsage:
    """What one customer's jobs of one day took."""

    customer: str  # as the Secret of API keys names it, "anonymous" without keys; OTHERS
    jobs: int = 0  # that succeeded
    cached_jobs: int = 0  # of them, those that the result cache answered
    images: int = 0  # of jobs that succeeded
    # Measured, of jobs that came to any end on a worker; a run that several jobs shared is split between them evenly.
    gpu_microseconds: int = 0

    @property
    def gpu_seconds(self) -> float:
        """The measured work."""
        return self.gpu_microseconds / 1_000_000


class UsageLedger(Protocol):
    """What gateways read."""

    async def read(self, day: date) -> tuple[CustomerUsage, ...]:
        """All customers of a day, by name; none of a day that isn't kept. Raises StoreUnavailableError."""
        ...
