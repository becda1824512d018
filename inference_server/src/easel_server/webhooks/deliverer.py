"""The task that empties the outbox; every gateway runs one, and whoever is free takes the next delivery.

answer                              what follows
------                              ------------
2xx                                 delivered
410 Gone                            failed: the receiver asks for no more
any other, no answer, no address,   tried again after DELAYS_SECONDS; failed after the last attempt
an error that nobody foresaw
an address that isn't allowed       failed: trying again would not make it so
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

import httpcore2
import httpx2
from opentelemetry.trace import SpanKind, Tracer
from opentelemetry.util.types import Attributes
from standardwebhooks import Webhook

from easel_server.generation.request import derive_webhook_secret
from easel_server.outbound.guarded_transport import RefusedAddressError
from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.outbox.interface import Delivery, WebhookOutbox
from easel_server.telemetry.logs import logged_for
from easel_server.telemetry.metrics import ServerMetrics
from easel_server.telemetry.supervision import note_failure
from easel_server.telemetry.tracing import NO_TRACER, TRACE_PARENT, open_span, to_trace_parent

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_SECONDS: Final = 5.0
READ_TIMEOUT_SECONDS: Final = 15.0
ATTEMPT_TIMEOUT_SECONDS: Final = 30.0  # of everything together, for a receiver that answers byte by byte
LEASE_SECONDS: Final = 10.0  # renewed during an attempt: a delivery comes back only if its gateway died
RENEW_SECONDS: Final = 3.0  # two renewals may fail before the lease is over
CLAIM_WAIT_SECONDS: Final = 5.0
MAX_CONCURRENT: Final = 64  # of this gateway, to hosts that get MAX_ATTEMPTS_PER_HOST each
OUTAGE_PAUSE_SECONDS: Final = 1.0
USER_AGENT: Final = "easel-webhooks"
# After the first attempt, the second, …: about eight hours in all, as the Standard Webhooks specification suggests
# (long enough for a night's outage of the receiver). https://www.standardwebhooks.com
DELAYS_SECONDS: Final = (5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0, 7200.0, 14400.0)
MAX_ATTEMPTS: Final = len(DELAYS_SECONDS) + 1
JITTER: Final = 0.2  # so that a receiver that comes back isn't met by everything at once

# The JSON of a delivery's job, as the HTTP API shows it.
BuildBody = Callable[[Delivery], Awaitable[bytes]]


class DeliveryOutcome(StrEnum):
    """What became of one attempt."""

    DELIVERED = "delivered"
    RETRIED = "retried"
    FAILED = "failed"


class Deliverer:
    """Signs and sends. ``client`` must use a GuardedTransport, and not follow redirects."""

    def __init__(
        self,
        outbox: WebhookOutbox,
        client: httpx2.AsyncClient,
        *,
        signing_secrets: Sequence[str],
        build_body: BuildBody,
        metrics: ServerMetrics,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        chance: Callable[[], float] = random.random,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self._outbox = outbox
        self._client = client
        self._secrets = tuple(signing_secrets)
        self._build_body = build_body
        self._metrics = metrics
        self._now = now
        self._chance = chance
        self._tracer = tracer
        self._free = asyncio.Semaphore(MAX_CONCURRENT)
        self._attempts: set[asyncio.Task[None]] = set()
        self._of_customer: Counter[str] = Counter()  # attempts under way

    @property
    def under_way(self) -> Collection[asyncio.Task[None]]:
        """Attempts that haven't come to an end yet."""
        return self._attempts

    async def run_forever(self) -> None:
        """Deliver until cancelled; attempts under way are then cut off, and come back when their lease is over."""
        try:
            while True:
                await self._free.acquire()
                delivery = await self._claim()
                if delivery is None:
                    self._free.release()
                    continue
                attempt = asyncio.create_task(self._handle(delivery), name=f"webhook-{delivery.id}")
                self._begin(attempt, delivery.job.owner)
        finally:
            for attempt in self._attempts:
                attempt.cancel()

    def _begin(self, attempt: asyncio.Task[None], customer: str) -> None:
        self._attempts.add(attempt)
        self._of_customer[customer] += 1

        def end(_: asyncio.Task[None]) -> None:
            self._attempts.discard(attempt)
            self._of_customer[customer] -= 1
            self._of_customer += Counter()  # who has none is forgotten
            self._free.release()

        attempt.add_done_callback(end)

    def _find_busy_customers(self) -> frozenset[str]:
        """Who has as many attempts under way as are left for others, so that slow receivers don't take them all."""
        left = MAX_CONCURRENT - len(self._attempts)
        return frozenset(customer for customer, count in self._of_customer.items() if count >= left)

    async def _claim(self) -> Delivery | None:
        try:
            return await self._outbox.claim(
                lease_seconds=LEASE_SECONDS,
                wait_seconds=CLAIM_WAIT_SECONDS,
                find_busy_customers=self._find_busy_customers,
            )
        except StoreUnavailableError as error:
            logger.debug("no webhooks for now: %s", error)
            await asyncio.sleep(OUTAGE_PAUSE_SECONDS)
            return None

    async def _handle(self, delivery: Delivery) -> None:
        try:
            with logged_for(delivery.job.request_id):
                self._metrics.count_webhook(await self.attempt(delivery))
        except StoreUnavailableError as error:
            logger.warning("webhook %s: its outcome isn't recorded, it will be sent again: %s", delivery.id, error)
        except Exception:
            logger.exception("webhook %s: its outcome isn't recorded, it will be sent again", delivery.id)

    async def attempt(self, delivery: Delivery) -> DeliveryOutcome:
        """Send it once and record what follows. Raises StoreUnavailableError.

        Whatever goes wrong, foreseen or not, counts as an attempt: nothing comes back for ever.
        """
        if delivery.attempt > MAX_ATTEMPTS:  # whose deliverers died, or could record nothing
            return await self._fail(delivery, "its attempts came to no end that could be recorded")
        try:
            async with self._leased(delivery), asyncio.timeout(ATTEMPT_TIMEOUT_SECONDS):
                code = await self._post(delivery)
        except StoreUnavailableError:
            raise
        except Exception as error:  # foreseen or not: what else a URL or a receiver can bring about has no common type
            return await self._settle_error(delivery, error)
        if 200 <= code < 300:
            await self._outbox.settle(delivery)
            self._observe_delay(delivery)
            return DeliveryOutcome.DELIVERED
        if code == 410:
            return await self._fail(delivery, "the receiver answered 410 Gone")
        return await self._retry(delivery, f"the receiver answered {code}")

    def _observe_delay(self, delivery: Delivery) -> None:
        """Since the event: by the store's clock and this one, which are to be about the same."""
        job = delivery.job
        happened_at = job.finished_at or job.submitted_at
        self._metrics.observe_delivery((self._now() - happened_at).total_seconds())

    async def _settle_error(self, delivery: Delivery, error: Exception) -> DeliveryOutcome:
        match error:
            case RefusedAddressError():
                advice = "use a public receiver, or add its network to gateway.webhook.allowedNetworks"
                return await self._fail(delivery, f"{error}; {advice}")
            case httpx2.InvalidURL() | httpx2.UnsupportedProtocol() | httpcore2.UnsupportedProtocol():
                return await self._fail(delivery, f"its URL can't be used: {error}")
            case httpcore2.NetworkError() | httpcore2.TimeoutException() | httpcore2.ProtocolError() | OSError():
                pass
            case _:
                logger.error("webhook %s: an unforeseen error, please report it", delivery.id, exc_info=error)
        return await self._retry(delivery, f"{type(error).__name__}: {error}")

    @asynccontextmanager
    async def _leased(self, delivery: Delivery) -> AsyncIterator[None]:
        """Keep the lease, however long the receiver takes; no renewal is under way afterwards."""
        over = asyncio.Event()
        renewing = asyncio.create_task(self._renew(delivery, over), name=f"lease-{delivery.id}")
        try:
            yield
        finally:
            over.set()
            await renewing

    async def _renew(self, delivery: Delivery, over: asyncio.Event) -> None:
        while True:
            try:
                await asyncio.wait_for(over.wait(), RENEW_SECONDS)
                return
            except TimeoutError:
                try:
                    await self._outbox.postpone(delivery, LEASE_SECONDS)
                except StoreUnavailableError:
                    continue
                except Exception as error:  # at worst the webhook is sent twice, which receivers must expect anyway
                    note_failure("webhook-lease", self._metrics, error)

    async def _post(self, delivery: Delivery) -> int:
        body = await self._build_body(delivery)
        now = self._now()
        headers = {
            "content-type": "application/json",
            "user-agent": USER_AGENT,
            "webhook-id": delivery.id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._sign(delivery, now, body.decode()),
        }
        with open_span(
            self._tracer,
            "deliver webhook",
            kind=SpanKind.CLIENT,
            attributes=_describe(delivery),
            parent=delivery.job.trace_parent,
        ) as span:
            if (trace_parent := to_trace_parent(span)) is not None:
                headers[TRACE_PARENT] = trace_parent
            async with self._client.stream("POST", delivery.url, content=body, headers=headers) as response:
                span.set_attribute("http.response.status_code", response.status_code)
                return response.status_code  # the body is not read: it may be endless

    def _sign(self, delivery: Delivery, now: datetime, body: str) -> str:
        """For each key, by it and by the customer's own of it: receivers know any of them, and keys may just change."""
        own = (derive_webhook_secret(secret, delivery.job.owner) for secret in self._secrets)
        return " ".join(Webhook(secret).sign(delivery.id, now, body) for secret in (*self._secrets, *own))

    async def _retry(self, delivery: Delivery, reason: str) -> DeliveryOutcome:
        delay_seconds = retry_delay_seconds(delivery.attempt, self._chance())
        if delay_seconds is None:
            return await self._fail(delivery, reason)
        await self._outbox.postpone(delivery, delay_seconds)
        logger.info("webhook %s: attempt %d failed (%s)", delivery.id, delivery.attempt, reason)
        return DeliveryOutcome.RETRIED

    async def _fail(self, delivery: Delivery, reason: str) -> DeliveryOutcome:
        await self._outbox.settle(delivery)
        logger.warning(
            "webhook %s: failed for good at attempt %d of %d: %s", delivery.id, delivery.attempt, MAX_ATTEMPTS, reason
        )
        return DeliveryOutcome.FAILED


def retry_delay_seconds(attempt: int, chance: float) -> float | None:
    """Delay after the failure of attempt number ``attempt`` (1 for the first); None if it was the last.

    ``chance`` in [0, 1) is a random number: the delay is lengthened by up to a fifth.
    """
    if attempt >= MAX_ATTEMPTS:
        return None
    return DELAYS_SECONDS[attempt - 1] * (1 + JITTER * chance)


def _describe(delivery: Delivery) -> Attributes:
    """By OpenTelemetry's conventions, but without the URL: its path and query are the receiver's secret."""
    return {
        "http.request.method": "POST",
        "http.request.resend_count": delivery.attempt - 1,
        "server.address": httpx2.URL(delivery.url).host,
        "easel.job.id": delivery.job.id,
        "easel.webhook.id": delivery.id,
        "easel.webhook.event": delivery.event,
    }


def build_client(transport: httpx2.AsyncBaseTransport) -> httpx2.AsyncClient:
    """The client that a Deliverer needs, on a GuardedTransport."""
    return httpx2.AsyncClient(
        transport=transport,
        follow_redirects=False,
        trust_env=False,
        timeout=httpx2.Timeout(READ_TIMEOUT_SECONDS, connect=CONNECT_TIMEOUT_SECONDS),
    )
