"""Input images by their address: fetched here, never by workers, within what a request may bring along in its body.

Where they may come from is ``gateway.inputs``; how the way there is guarded: ``outbound/fetch.py``. What was fetched is
treated as if it had come in the request: its pixels are counted, it is decoded, and what a job, its recipe and the
cache know of it is the digest of its content, never its address.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Final

from easel_contract.gateway_config import InputsConfig

from easel_server.gateway.inputs.turns import TooManyWaitingError, Turns
from easel_server.gateway.refusals import refuse_field, refuse_for_fetches
from easel_server.outbound.fetch import Fetcher, FetchError, FetchFailure
from easel_server.outbound.resolver import Resolve
from easel_server.telemetry.gateway_metrics import FETCHED, RequestMetrics

# Requests whose images are being fetched or decoded. Each may hold as many bytes as a body may have, so together they
# hold as much as bodies may (transport/body_bounds.py).
REQUESTS: Final = 8
MAX_WAITING: Final = 64  # requests of a gateway: they hold nothing but their bodies
MAX_URLS: Final = 16  # of one request
MAX_URL_CHARACTERS: Final = 4096  # signed ones are long
SETTING: Final = "gateway.inputs.allowedHosts"

# Whether the current request's images were fetched: then its body doesn't say what it asks for.
has_fetched: ContextVar[bool] = ContextVar("has_fetched", default=False)


class RequestFetches:
    """What the images of one request may still take."""

    def __init__(self, fetcher: Fetcher, metrics: RequestMetrics, *, max_bytes: int, max_seconds: float) -> None:
        self._fetcher = fetcher
        self._metrics = metrics
        self._max_bytes = self._left_bytes = max_bytes
        self._max_seconds = self._left_seconds = max_seconds
        self._left_urls = MAX_URLS

    async def fetch(self, field: str, url: str) -> bytes:
        """What is there. Raises RefusalError."""
        if len(url) > MAX_URL_CHARACTERS:
            raise refuse_field(field, f"is an address of {len(url)} characters, at most {MAX_URL_CHARACTERS} may be")
        if not self._left_urls:
            raise refuse_field(field, f"is one address more than the {MAX_URLS} that a request may name")
        self._left_urls -= 1
        has_fetched.set(True)
        clock = asyncio.get_running_loop().time
        begun_at = clock()
        try:
            async with asyncio.timeout(self._left_seconds):
                content = await self._fetcher.fetch(url, max_bytes=self._left_bytes)
        except FetchError as error:
            self._metrics.count_input_fetch(error.failure)
            raise refuse_field(field, self._describe(error)) from error
        except TimeoutError as error:
            self._metrics.count_input_fetch(FetchFailure.TOO_SLOW)
            message = f"comes too slowly: the images of a request may take {self._max_seconds:g} seconds together"
            raise refuse_field(field, message) from error
        self._metrics.count_input_fetch(FETCHED)
        self._left_bytes -= len(content)
        self._left_seconds -= clock() - begun_at
        return content

    def _describe(self, error: FetchError) -> str:
        if error.failure is not FetchFailure.TOO_LARGE or self._left_bytes == self._max_bytes:
            return str(error)
        return f"{error}: the images of a request may have {self._max_bytes} together (gateway.limits.maxBodyBytes)"


class InputUrls:
    """Fetches the images of requests, few requests at a time. One a gateway."""

    def __init__(
        self,
        config: InputsConfig,
        metrics: RequestMetrics,
        *,
        max_bytes: int,
        resolve: Resolve | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """``max_bytes``: of one request's images together. The last two are for tests."""
        self._config = config
        self._metrics = metrics
        self._max_bytes = max_bytes
        self._resolve = resolve
        self._ssl_context = ssl_context
        self._turns = Turns(REQUESTS, is_shared=True, max_waiting=MAX_WAITING)

    @property
    def are_allowed(self) -> bool:
        """Whether there is any host to fetch from."""
        return bool(self._config.allowed_hosts)

    @asynccontextmanager
    async def turn(self, customer: str) -> AsyncIterator[RequestFetches]:
        """Fetch for one request, once it is this customer's turn, until its images are decoded. Raises RefusalError."""
        try:
            async with (
                self._turns.taken(customer),
                Fetcher(
                    self._config.allowed_hosts,
                    self._config.allowed_networks,
                    timeout_seconds=self._config.max_seconds,
                    setting=SETTING,
                    resolve=self._resolve,
                    ssl_context=self._ssl_context,
                ) as fetcher,
            ):
                yield RequestFetches(
                    fetcher, self._metrics, max_bytes=self._max_bytes, max_seconds=self._config.max_seconds
                )
        except TooManyWaitingError as error:
            raise refuse_for_fetches(error.waiting, error.bound) from error
