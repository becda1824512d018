"""Webhooks are written with the change that they tell of, on all brokers."""

import asyncio

import pytest
from easel_server.generation.job import JobState
from easel_server.generation.request import WebhookTarget
from easel_server.stores.interface import Broker
from easel_server.stores.jobs.interface import BrokerSettings, Failed

from tests.inference_server.stores.conftest import BuildBroker
from tests.inference_server.stores.steps import (
    LONG_SECONDS,
    SHORT_SECONDS,
    claim,
    reap_something,
)
from tests.support.eventually import eventually
from tests.support.jobs import build_job

HOOK = WebhookTarget(url="http://receiver.example/hook", events=("start", "completed"))


async def test_webhooks_are_queued_with_the_change_they_tell_of(broker: Broker) -> None:
    await broker.submit(build_job("a", webhook=HOOK))
    await broker.finish(await claim(broker), Failed("no"))
    start = await broker.claim_delivery(lease_seconds=LONG_SECONDS, wait_seconds=0)
    completed = await broker.claim_delivery(lease_seconds=LONG_SECONDS, wait_seconds=0)
    assert start is not None
    assert completed is not None
    assert (start.id, start.event, start.url, start.attempt) == ("a.start", "start", HOOK.url, 1)
    assert start.job.state == JobState.WAITING
    assert (completed.id, completed.event) == ("a.completed", "completed")
    assert completed.job == await broker.get("a")
    assert await broker.claim_delivery(lease_seconds=1, wait_seconds=0) is None


async def test_only_the_events_that_were_asked_for_are_delivered(broker: Broker) -> None:
    await broker.submit(build_job("a", webhook=WebhookTarget(url=HOOK.url, events=("completed",))))
    await broker.submit(build_job("b"))
    assert await broker.claim_delivery(lease_seconds=1, wait_seconds=0) is None
    await broker.cancel("a")
    await broker.cancel("b")
    delivery = await broker.claim_delivery(lease_seconds=1, wait_seconds=0)
    assert delivery is not None
    assert delivery.id == "a.completed"


@pytest.mark.parametrize("end", ["cancel", "deadline", "reap", "release"])
async def test_every_way_to_end_a_job_tells_its_client(build_broker: BuildBroker, end: str) -> None:
    broker = build_broker(BrokerSettings(max_attempts=1))
    deadline_seconds = SHORT_SECONDS if end == "deadline" else None
    await broker.submit(build_job("a", webhook=WebhookTarget(url=HOOK.url), deadline_seconds=deadline_seconds))
    if end == "cancel":
        await broker.cancel("a")
    elif end == "deadline":
        await reap_something(broker)
    elif end == "reap":
        await claim(broker, lease_seconds=SHORT_SECONDS)
        await reap_something(broker)
    else:
        held = await claim(broker)
        await broker.cancel("a")
        await broker.release(held)
    delivery = await broker.claim_delivery(lease_seconds=1, wait_seconds=0)
    assert delivery is not None
    assert delivery.job == await broker.get("a")
    assert delivery.job.state.is_final


async def test_a_delivery_outlives_its_result(build_broker: BuildBroker) -> None:
    broker = build_broker(BrokerSettings(result_ttl_seconds=0.03))
    await broker.submit(build_job("a", webhook=HOOK))
    job = await broker.cancel("a")

    async def is_forgotten() -> bool:
        return await broker.get("a") is None

    await eventually(is_forgotten)
    deliveries = [await broker.claim_delivery(lease_seconds=LONG_SECONDS, wait_seconds=0) for _ in range(2)]
    assert [delivery.id for delivery in deliveries if delivery] == ["a.start", "a.completed"]
    assert deliveries[1] is not None
    assert deliveries[1].job == job


async def test_a_delivery_whose_deliverer_died_is_due_again_with_the_same_id(broker: Broker) -> None:
    await broker.submit(build_job("a", webhook=WebhookTarget(url=HOOK.url)))
    await broker.cancel("a")
    first = await broker.claim_delivery(lease_seconds=SHORT_SECONDS, wait_seconds=0)
    second = await broker.claim_delivery(lease_seconds=LONG_SECONDS, wait_seconds=10)
    assert first is not None
    assert second is not None
    assert (first.id, first.attempt, second.id, second.attempt) == ("a.completed", 1, "a.completed", 2)
    await broker.postpone_delivery(first, 0)  # too late: another has it
    assert await broker.claim_delivery(lease_seconds=LONG_SECONDS, wait_seconds=0) is None


async def test_a_postponed_delivery_is_due_later_and_a_settled_one_never(broker: Broker) -> None:
    await broker.submit(build_job("a", webhook=WebhookTarget(url=HOOK.url)))
    await broker.cancel("a")
    delivery = await broker.claim_delivery(lease_seconds=LONG_SECONDS, wait_seconds=0)
    assert delivery is not None
    await broker.postpone_delivery(delivery, 0.2)
    assert await broker.claim_delivery(lease_seconds=LONG_SECONDS, wait_seconds=0) is None
    again = await broker.claim_delivery(lease_seconds=SHORT_SECONDS, wait_seconds=10)
    assert again is not None
    assert again.attempt == 2
    await broker.settle_delivery(again)
    assert await broker.claim_delivery(lease_seconds=1, wait_seconds=2 * SHORT_SECONDS) is None


async def test_a_waiting_deliverer_is_woken(broker: Broker) -> None:
    claiming = asyncio.create_task(broker.claim_delivery(lease_seconds=LONG_SECONDS, wait_seconds=20))
    await asyncio.sleep(0)
    await broker.submit(build_job("a", webhook=HOOK))
    delivery = await asyncio.wait_for(claiming, 5)
    assert delivery is not None
