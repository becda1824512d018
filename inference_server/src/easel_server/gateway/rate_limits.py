"""What a request is charged, to its customer's buckets and the service's, and the ``Retry-After`` of who has to wait.

In requests and in GPU-seconds. All is pure but ``Charges``, which takes from the store's buckets and refunds them.
"""

import logging
import math
from collections.abc import Sequence
from typing import Final

from easel_contract.gateway_config import GatewayConfig

from easel_server.gateway.refusals import RefusalError
from easel_server.generation.request import Customer
from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.limits.interface import BucketState, Charge, RateDecision, RateLimiter

THOUSANDTHS: Final = 1000
REQUESTS: Final = "requests"
GPU_SECONDS: Final = "gpu-seconds"

logger = logging.getLogger(__name__)


def build_charges(
    customer: Customer, config: GatewayConfig, *, requests: int = 0, gpu_seconds: float = 0.0
) -> list[Charge]:
    """What so many requests, or predicted GPU-seconds, take out of the customer's buckets and the service's."""
    limits = ((f":{customer.name}", customer.rate_limit or config.rate_limit), ("", config.service_rate_limit))
    charges = []
    for owner, rate in limits:
        if rate is None:
            continue
        if requests and rate.requests_per_minute is not None:
            per_minute, burst = rate.requests_per_minute * THOUSANDTHS, rate.burst * THOUSANDTHS
            charges.append(Charge(f"{REQUESTS}{owner}", requests * THOUSANDTHS, per_minute, burst))
        if gpu_seconds and rate.gpu_seconds_per_minute is not None:
            per_minute, burst = rate.gpu_seconds_per_minute * THOUSANDTHS, rate.gpu_seconds_burst * THOUSANDTHS
            charges.append(Charge(f"{GPU_SECONDS}{owner}", math.ceil(gpu_seconds * THOUSANDTHS), per_minute, burst))
    return charges


class Charges:
    """Of one request."""

    def __init__(self, limiter: RateLimiter) -> None:
        self._limiter = limiter
        self._taken: list[Charge] = []
        self._buckets: list[BucketState] = []

    @property
    def headers(self) -> dict[str, str]:
        """What is left, for the answer."""
        return build_rate_headers(self._buckets) if self._buckets else {}

    async def charge(self, charges: Sequence[Charge]) -> None:
        """Take all of the charges. Raises RefusalError (429), and then nothing of this request is charged."""
        if not charges:
            return
        decision = await self._limiter.take(charges)
        if not decision.allowed:
            await self.refund()
            raise refuse_for_rate(decision)
        self._taken += charges
        self._buckets += decision.buckets

    async def refund(self, charges: Sequence[Charge] | None = None) -> None:
        """Undo these charges, or all. What else became of the request doesn't depend on whether that succeeds."""
        refunded = list(self._taken if charges is None else charges)
        if not refunded:
            return
        self._taken = [charge for charge in self._taken if charge not in refunded]
        try:
            await self._limiter.refund(refunded)
        except StoreUnavailableError as error:
            logger.warning("a request that was not served stays charged: %s", error)


def refuse_for_rate(decision: RateDecision) -> RefusalError:
    """A bucket of this key, or of the service, holds too little."""
    seconds = math.ceil(decision.retry_after_seconds)
    short = [state for state in decision.buckets if state.remaining < min(state.charge.amount, state.charge.burst)]
    bucket = _tightest(short or decision.buckets).charge
    unit, _, owner = bucket.bucket.partition(":")
    whose = "this API key's" if owner else "the service's"
    return RefusalError(
        429,
        "rate_limit_exceeded",
        f"{whose} rate limit of {_units(bucket.per_minute)} {unit} a minute (at most {_units(bucket.burst)} at once) "
        f"is used up; try again in {seconds} s",
        headers={"Retry-After": str(seconds), **build_rate_headers(decision.buckets)},
    )


def build_rate_headers(buckets: Sequence[BucketState]) -> dict[str, str]:
    """What is left of the bucket that has the smallest share left, and the policies of all.

    https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-ratelimit-headers-07
    """
    if not buckets:
        return {}
    tightest = _tightest(buckets)
    return {
        "RateLimit-Limit": str(_units(tightest.charge.burst)),
        "RateLimit-Remaining": str(_units(tightest.remaining)),
        "RateLimit-Reset": str(math.ceil(tightest.reset_seconds)),
        "RateLimit-Policy": ", ".join(_policy(state.charge) for state in buckets),
    }


def _tightest(buckets: Sequence[BucketState]) -> BucketState:
    return min(buckets, key=lambda state: state.remaining / state.charge.burst)


def _units(thousandths: int) -> int:
    return thousandths // THOUSANDTHS


def _policy(charge: Charge) -> str:
    return f'{_units(charge.per_minute)};w=60;burst={_units(charge.burst)};name="{charge.bucket.partition(":")[0]}"'
