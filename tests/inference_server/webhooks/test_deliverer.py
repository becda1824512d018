"""From the outbox to a real receiver."""

import asyncio
import base64
import json
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

import pytest
from easel_contract import metrics as contract
from easel_server.gateway.input_images import Decoders
from easel_server.generation.request import WebhookTarget, derive_webhook_secret
from easel_server.outbound.guarded_transport import GuardedTransport
from easel_server.outbound.resolver import Resolve, Resolver
from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.jobs.interface import JobBounds
from easel_server.stores.opening import Stores, open_memory_stores
from easel_server.stores.outbox.interface import Delivery
from easel_server.telemetry.metrics import ServerMetrics
from easel_server.webhooks import deliverer as deliverer_module
from easel_server.webhooks.deliverer import (
    MAX_ATTEMPTS,
    MAX_CONCURRENT,
    BuildBody,
    Deliverer,
    DeliveryOutcome,
    build_client,
)
from standardwebhooks import Webhook, WebhookVerificationError

from tests.support.eventually import eventually
from tests.support.http_receiver import HttpReceiver
from tests.support.jobs import build_job

SECRET = "whsec_" + base64.b64encode(b"a test's secret, 32 bytes long..").decode()

NEW_SECRET = "whsec_" + base64.b64encode(b"the secret that comes after it, 32").decode()
OTHER_SECRET = "whsec_" + base64.b64encode(b"a secret that nobody signs with, 32").decode()


class FakeClock:
    """Moves only when a test says so."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


async def build_body(delivery: Delivery) -> bytes:
    return json.dumps(
        {"id": delivery.job.id, "status": delivery.job.state, "prompt": "Öl"}, ensure_ascii=False
    ).encode()


def build_deliverer(
    outbox: Any,
    metrics: ServerMetrics,
    clock: FakeClock,
    secrets: Sequence[str] = (SECRET,),
    build_body: BuildBody = build_body,
    resolve: Resolve | None = None,
) -> Deliverer:
    return Deliverer(
        outbox,
        build_client(GuardedTransport([ip_network("127.0.0.1/32")], resolve)),
        signing_secrets=secrets,
        build_body=build_body,
        metrics=metrics,
        now=clock,
        chance=lambda: 0.0,
    )


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def stores(clock: FakeClock) -> Stores:
    return open_memory_stores(JobBounds(), clock=clock)


@pytest.fixture
def metrics() -> ServerMetrics:
    return ServerMetrics(gateway=True, worker=False)


@asynccontextmanager
async def running(deliverer: Deliverer) -> AsyncIterator[None]:
    task = asyncio.create_task(deliverer.run_forever())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def end_job(stores: Stores, job_id: str, url: str, owner: str = "anonymous") -> None:
    await stores.jobs.submit(build_job(job_id, owner=owner, webhook=WebhookTarget(url=url)))
    await stores.jobs.cancel(job_id)


async def delivery_of(stores: Stores) -> Delivery:
    delivery = await stores.outbox.claim(lease_seconds=3600, wait_seconds=0)
    assert delivery is not None
    return delivery


async def test_a_finished_job_is_reported_with_a_signature_that_verifies(
    stores: Stores, metrics: ServerMetrics, clock: FakeClock
) -> None:
    async with HttpReceiver() as receiver, running(build_deliverer(stores.outbox, metrics, clock)):
        await end_job(stores, "a", f"http://127.0.0.1:{receiver.port}/hook")

        async def has_come() -> bool:
            return bool(receiver.received)

        await eventually(has_come)
    received = receiver.received[0]
    assert received.headers["webhook-id"] == "a.completed"
    assert received.headers["content-type"] == "application/json"
    verified = Webhook(SECRET).verify(received.body, received.headers)
    assert verified == {"id": "a", "status": "Canceled", "prompt": "Öl"}


OWN_SECRETS = [derive_webhook_secret(secret, "anonymous") for secret in (SECRET, NEW_SECRET)]


@pytest.mark.parametrize("known", [SECRET, NEW_SECRET, *OWN_SECRETS])
async def test_while_keys_rotate_receivers_verify_by_either(
    stores: Stores, metrics: ServerMetrics, clock: FakeClock, known: str
) -> None:
    async with HttpReceiver() as receiver:
        await end_job(stores, "a", f"http://127.0.0.1:{receiver.port}/hook")
        deliverer = build_deliverer(stores.outbox, metrics, clock, (NEW_SECRET, SECRET))
        assert await deliverer.attempt(await delivery_of(stores)) == DeliveryOutcome.DELIVERED
    received = receiver.received[0]
    assert Webhook(known).verify(received.body, received.headers)
    for stranger in (OTHER_SECRET, derive_webhook_secret(SECRET, "another customer")):
        with pytest.raises(WebhookVerificationError):
            Webhook(stranger).verify(received.body, received.headers)


async def test_a_failing_receiver_is_tried_again_with_the_same_id_until_it_answers(
    stores: Stores, metrics: ServerMetrics, clock: FakeClock
) -> None:
    answers = iter(["500 Internal Server Error", "302 Found\r\nLocation: http://127.0.0.1/", "204 No Content"])
    async with HttpReceiver(lambda _: next(answers)) as receiver:
        await end_job(stores, "a", f"http://127.0.0.1:{receiver.port}/")
        deliverer = build_deliverer(stores.outbox, metrics, clock)
        outcomes = []
        for delay_seconds in (4.9, 29.9, 0):
            outcomes.append(await deliverer.attempt(await delivery_of(stores)))
            clock.advance(delay_seconds)
            assert await stores.outbox.claim(lease_seconds=1, wait_seconds=0) is None
            clock.advance(0.2)
    assert outcomes == [DeliveryOutcome.RETRIED, DeliveryOutcome.RETRIED, DeliveryOutcome.DELIVERED]
    headers = [received.headers for received in receiver.received]
    assert {entry["webhook-id"] for entry in headers} == {"a.completed"}
    assert len({entry["webhook-timestamp"] for entry in headers}) == 3  # each attempt is signed anew
    clock.advance(10**6)
    assert await stores.outbox.claim(lease_seconds=1, wait_seconds=0) is None


async def test_gone_is_final(stores: Stores, metrics: ServerMetrics, clock: FakeClock) -> None:
    async with HttpReceiver(lambda _: "410 Gone") as receiver:
        await end_job(stores, "a", f"http://127.0.0.1:{receiver.port}/")
        outcome = await build_deliverer(stores.outbox, metrics, clock).attempt(await delivery_of(stores))
    assert outcome == DeliveryOutcome.FAILED
    clock.advance(10**6)
    assert await stores.outbox.claim(lease_seconds=1, wait_seconds=0) is None


@pytest.mark.parametrize("url", ["http://10.0.0.1/", "http://169.254.169.254/latest/meta-data/", "ftp://x.example/"])
async def test_urls_that_lead_inside_or_nowhere_fail_at_once(
    stores: Stores, metrics: ServerMetrics, clock: FakeClock, url: str
) -> None:
    await end_job(stores, "a", url)
    outcome = await build_deliverer(stores.outbox, metrics, clock).attempt(await delivery_of(stores))
    assert outcome == DeliveryOutcome.FAILED


async def test_a_receiver_that_never_answers_has_failed_after_the_last_attempt(
    stores: Stores, metrics: ServerMetrics, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliverer_module, "ATTEMPT_TIMEOUT_SECONDS", 0.02)
    outcomes = []
    async with HttpReceiver(lambda _: None) as receiver:
        await end_job(stores, "a", f"http://127.0.0.1:{receiver.port}/")
        deliverer = build_deliverer(stores.outbox, metrics, clock)
        for _ in range(MAX_ATTEMPTS):
            outcomes.append(await deliverer.attempt(await delivery_of(stores)))
            clock.advance(10**6)
    assert outcomes == [DeliveryOutcome.RETRIED] * (MAX_ATTEMPTS - 1) + [DeliveryOutcome.FAILED]
    assert await stores.outbox.claim(lease_seconds=1, wait_seconds=0) is None


async def test_a_dead_receiver_does_not_hold_up_the_others(
    stores: Stores, metrics: ServerMetrics, clock: FakeClock
) -> None:
    async with (
        HttpReceiver(lambda _: None) as dead,
        HttpReceiver() as alive,
        running(build_deliverer(stores.outbox, metrics, clock)),
    ):
        for number in range(200):  # more than a deliverer attempts at once
            await end_job(stores, f"dead-{number}", f"http://127.0.0.1:{dead.port}/")
        await end_job(stores, "alive", f"http://127.0.0.1:{alive.port}/")

        async def has_come() -> bool:
            return bool(alive.received)

        await eventually(has_come, timeout_seconds=5)

        async def is_counted() -> bool:
            sample = metrics.registry.get_sample_value(contract.WEBHOOKS_TOTAL, {"outcome": "delivered"})
            return sample == 1

        await eventually(is_counted)


async def test_the_deliverer_outlives_an_outage_of_the_outbox(
    stores: Stores, metrics: ServerMetrics, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliverer_module, "OUTAGE_PAUSE_SECONDS", 0.001)

    class FlakyOutbox:
        """Fails every other time."""

        def __init__(self) -> None:
            self.calls = 0

        def __getattr__(self, name: str) -> Callable[..., Any]:
            async def call(*args: Any, **kwargs: Any) -> Any:
                self.calls += 1
                if self.calls % 2 and name == "claim":
                    raise StoreUnavailableError("redis:6379", name, "ConnectionError", "wait")
                return await getattr(stores.outbox, name)(*args, **kwargs)

            return call

    async with HttpReceiver() as receiver, running(build_deliverer(FlakyOutbox(), metrics, clock)):
        for number in range(3):
            await end_job(stores, f"job-{number}", f"http://127.0.0.1:{receiver.port}/")

        async def all_have_come() -> bool:
            return len(receiver.received) == 3

        await eventually(all_have_come)


async def test_an_unforeseen_error_counts_as_an_attempt_and_does_not_come_back_for_ever(
    stores: Stores, metrics: ServerMetrics, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def stumble(delivery: Delivery) -> bytes:
        raise ZeroDivisionError(delivery.id)

    await end_job(stores, "a", "http://127.0.0.1:1/")
    deliverer = build_deliverer(stores.outbox, metrics, clock, build_body=stumble)
    outcomes = []
    while (delivery := await stores.outbox.claim(lease_seconds=10, wait_seconds=0)) is not None:
        outcomes.append(await deliverer.attempt(delivery))
        clock.advance(10**6)
        assert len(outcomes) <= MAX_ATTEMPTS
    assert outcomes == [DeliveryOutcome.RETRIED] * (MAX_ATTEMPTS - 1) + [DeliveryOutcome.FAILED]
    assert "ZeroDivisionError" in caplog.text


async def test_a_delivery_whose_outcome_can_never_be_recorded_comes_to_an_end(
    stores: Stores, metrics: ServerMetrics, clock: FakeClock
) -> None:
    """As if each of its deliverers had died."""
    await end_job(stores, "a", "http://127.0.0.1:1/")
    for _ in range(MAX_ATTEMPTS):
        assert await stores.outbox.claim(lease_seconds=1, wait_seconds=0) is not None
        clock.advance(2)
    deliverer = build_deliverer(stores.outbox, metrics, clock)
    assert await deliverer.attempt(await delivery_of(stores)) is DeliveryOutcome.FAILED
    clock.advance(10**6)
    assert await stores.outbox.claim(lease_seconds=1, wait_seconds=0) is None


async def test_slow_host_names_of_one_customer_hold_up_neither_others_nor_the_decoding_of_images(
    stores: Stores, metrics: ServerMetrics, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server that never answers: every name but localhost waits until the attempt is given up."""
    silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    silent.bind(("127.0.0.1", 0))
    resolver = Resolver(nameservers=["127.0.0.1"], udp_port=silent.getsockname()[1], timeout=600)
    monkeypatch.setattr(deliverer_module, "CONNECT_TIMEOUT_SECONDS", 600.0)
    monkeypatch.setattr(deliverer_module, "ATTEMPT_TIMEOUT_SECONDS", 600.0)
    deliverer = build_deliverer(stores.outbox, metrics, clock, resolve=resolver)
    try:
        async with HttpReceiver() as receiver, running(deliverer):
            for number in range(4 * MAX_CONCURRENT):
                await end_job(stores, f"slow-{number}", f"http://name-{number}.example/", owner="slow")

            async def is_busy() -> bool:
                return len(deliverer.under_way) >= MAX_CONCURRENT // 2

            await eventually(is_busy)
            await end_job(stores, "other", f"http://127.0.0.1:{receiver.port}/", owner="other")
            slow = set(deliverer.under_way)
            assert await Decoders().run("other", lambda: 7) == 7

            async def has_come() -> bool:
                return bool(receiver.received)

            await eventually(has_come)
            assert slow <= set(deliverer.under_way), "before any of the slow ones was given up"
            assert len(deliverer.under_way) <= MAX_CONCURRENT // 2 + 1
    finally:
        await resolver.aclose()
        silent.close()


class CountingOutbox:
    """Counts how often a lease was renewed."""

    def __init__(self) -> None:
        self.renewed: list[float] = []
        self.settled: list[str] = []

    async def postpone(self, delivery: Delivery, delay_seconds: float) -> None:
        self.renewed.append(delay_seconds)

    async def settle(self, delivery: Delivery) -> None:
        self.settled.append(delivery.id)


async def test_a_lease_is_renewed_until_a_slow_receiver_answers(
    stores: Stores, metrics: ServerMetrics, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliverer_module, "RENEW_SECONDS", 0.01)
    outbox = CountingOutbox()

    async def build_slowly(delivery: Delivery) -> bytes:
        async def is_renewed_often() -> bool:
            return len(outbox.renewed) >= 3

        await eventually(is_renewed_often)
        return await build_body(delivery)

    async with HttpReceiver() as receiver:
        await end_job(stores, "a", f"http://127.0.0.1:{receiver.port}/hook")
        deliverer = build_deliverer(outbox, metrics, clock, build_body=build_slowly)
        assert await deliverer.attempt(await delivery_of(stores)) is DeliveryOutcome.DELIVERED
    assert set(outbox.renewed) == {deliverer_module.LEASE_SECONDS}
    assert outbox.settled == ["a.completed"]


async def test_a_lease_that_cannot_be_renewed_costs_no_delivery(
    stores: Stores, metrics: ServerMetrics, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = asyncio.Event()

    class Faulty:
        def __getattr__(self, name: str) -> Any:
            return getattr(stores.outbox, name)

        async def postpone(self, delivery: Delivery, delay_seconds: float) -> None:
            failed.set()
            raise KeyError("one bad record")

    async def build_late(delivery: Delivery) -> bytes:
        await failed.wait()
        return await build_body(delivery)

    monkeypatch.setattr(deliverer_module, "RENEW_SECONDS", 0.01)
    async with HttpReceiver() as receiver:
        await end_job(stores, "a", f"http://127.0.0.1:{receiver.port}/hook")
        deliverer = build_deliverer(Faulty(), metrics, clock, build_body=build_late)
        assert await deliverer.attempt(await delivery_of(stores)) is DeliveryOutcome.DELIVERED
    assert (metrics.registry.get_sample_value(contract.TASK_FAILURES_TOTAL, {"task": "webhook-lease"}) or 0) > 0
