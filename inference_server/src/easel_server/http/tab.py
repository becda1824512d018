"""What one request has been charged so far, so that it can be given back."""

import logging
from collections.abc import Sequence

from easel_server.broker.interface import BrokerUnavailableError, BucketState, Charge, RateLimiter
from easel_server.http.refusals import build_rate_headers, refuse_for_rate

logger = logging.getLogger(__name__)


class Tab:
    """Of one request."""

    def __init__(self, limiter: RateLimiter) -> None:
        self._limiter = limiter
        self._taken: list[Charge] = []
        self._buckets: list[BucketState] = []

    @property
    def headers(self) -> dict[str, str]:
        """What is left, for the answer."""
        return build_rate_headers(self._buckets)

    async def charge(self, charges: Sequence[Charge]) -> None:
        """Take all of the charges. Raises RefusalError (429), and then nothing of this request is charged."""
        if not charges:
            return
        decision = await self._limiter.take(charges)
        if not decision.allowed:
            await self.give_back()
            raise refuse_for_rate(decision)
        self._taken += charges
        self._buckets += decision.buckets

    async def give_back(self, charges: Sequence[Charge] | None = None) -> None:
        """Give these charges back, or all. What else became of the request doesn't depend on whether that succeeds."""
        returned = list(self._taken if charges is None else charges)
        if not returned:
            return
        self._taken = [charge for charge in self._taken if charge not in returned]
        try:
            await self._limiter.give_back(returned)
        except BrokerUnavailableError as error:
            logger.warning("a request that was not served stays charged: %s", error)
