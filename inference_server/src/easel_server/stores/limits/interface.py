"""What gateways ask of the rate limits. No I/O lives here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Charge:
    """What a request takes out of one bucket. All figures are in thousandths, so that GPU-seconds keep fractions."""

    bucket: str  # its name, such as "requests:alice"
    amount: int
    per_minute: int  # how fast it refills
    burst: int  # how much it holds


@dataclass(frozen=True)
class BucketState:
    """A bucket after a decision."""

    charge: Charge
    remaining: int  # thousandths that could be taken right now
    reset_seconds: float  # until it is full again


@dataclass(frozen=True)
class RateDecision:
    """Whether a request may pass all its buckets; a refused request takes nothing out of any."""

    allowed: bool
    buckets: tuple[BucketState, ...]  # one for each charge, in order
    retry_after_seconds: float  # 0 if allowed; else a request after this long passes, if no other comes first


class RateLimiter(Protocol):
    """Buckets shared by all gateways."""

    async def take(self, charges: Sequence[Charge]) -> RateDecision:
        """Take all the charges out of their buckets, or none.

        A charge larger than its bucket passes when the bucket is full, and leaves it in debt. Not safe to repeat: a
        request whose reply was lost is charged twice.
        """
        ...

    async def refund(self, charges: Sequence[Charge]) -> None:
        """Undo an earlier ``take`` of a request that was not served after all."""
        ...
