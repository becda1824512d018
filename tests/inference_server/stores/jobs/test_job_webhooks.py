"""Webhooks are written with the change that they report, in all stores."""

import asyncio

import pytest
from easel_server.generation.job import JobState
from easel_server.generation.request import WebhookTarget
from easel_server.stores.jobs.interface import Failed, JobBounds
from easel_server.stores.opening import Stores

from tests.inference_server.stores.conftest import BuildStores
from tests.inference_server.stores.steps import (
    LONG_SECONDS,
    SHORT_SECONDS,
    claim,
    reap_something,
)
from tests.support.eventually import eventually
from tests.support.jobs import build_job

HOOK = WebhookTarget(url="http://receiver.example/hook", events=("start", "completed"))


async def test_webhooks_are_queued_with_the_change_they_report(stores: Stores) -> None:
    await stores.jobs.submit(build_job("a", webhook=HOOK))
    await stores.jobs.finish(await claim(stores.jobs), Failed("no"))
    start = await stores.outbox.claim(lease_seconds=LONG_SECONDS, wait_seconds=0)
    completed = await stores.outbox.claim(lease_seconds=LONG_SECONDS, wait_seconds=0)
    assert start is not None
    assert completed is not None
    assert (start.id, start.event, start.url, start.attempt) == ("a.start", "start", HOOK.url, 1)
    assert start.job.state == JobState.WAITING
    assert (completed.id, completed.event) == ("a.completed", "completed")
    assert completed.job == await stores.jobs.get("a")
    assert await stores.outbox.claim(lease_seconds=1, wait_seconds=0) is None


async def test_only_the_events_that_were_asked_for_are_delivered(stores: Stores) -> None:
    await stores.jobs.submit(build_job("a", webhook=WebhookTarget(url=HOOK.url, events=("completed",))))
    await stores.jobs.submit(build_job("b"))
    assert await stores.outbox.claim(lease_seconds=1, wait_seconds=0) is None
    await stores.jobs.cancel("a")
    await stores.jobs.cancel("b")
    delivery = await stores.outbox.claim(lease_seconds=1, wait_seconds=0)
    assert delivery is not None
    assert delivery.id == "a.completed"


@pytest.mark.parametrize("end", ["cancel", "deadline", "reap", "release"])
async def test_every_way_to_end_a_job_tells_its_client(build_stores: BuildStores, end: str) -> None:
    stores = build_stores(JobBounds(max_attempts=1))
    deadline_seconds = SHORT_SECONDS if end == "deadline" else None
    await stores.jobs.submit(build_job("a", webhook=WebhookTarget(url=HOOK.url), deadline_seconds=deadline_seconds))
    if end == "cancel":
        await stores.jobs.cancel("a")
    elif end == "deadline":
        await reap_something(stores.jobs)
    elif end == "reap":
        await claim(stores.jobs, lease_seconds=SHORT_SECONDS)
        await reap_something(stores.jobs)
    else:
        held = await claim(stores.jobs)
        await stores.jobs.cancel("a")
        await stores.jobs.release(held)
    delivery = await stores.outbox.claim(lease_seconds=1, wait_seconds=0)
    assert delivery is not None
    assert delivery.job == await stores.jobs.get("a")
    assert delivery.job.state.is_final


async def test_a_delivery_outlives_its_result(build_stores: BuildStores) -> None:
    stores = build_stores(JobBounds(result_ttl_seconds=0.03))
    await stores.jobs.submit(build_job("a", webhook=HOOK))
    job = await stores.jobs.cancel("a")

    async def is_forgotten() -> bool:
        return await stores.jobs.get("a") is None

    await eventually(is_forgotten)
    deliveries = [await stores.outbox.claim(lease_seconds=LONG_SECONDS, wait_seconds=0) for _ in range(2)]
    assert [delivery.id for delivery in deliveries if delivery] == ["a.start", "a.completed"]
    assert deliveries[1] is not None
    assert deliveries[1].job == job


async def test_a_delivery_whose_deliverer_died_is_due_again_with_the_same_id(stores: Stores) -> None:
    await stores.jobs.submit(build_job("a", webhook=WebhookTarget(url=HOOK.url)))
    await stores.jobs.cancel("a")
    first = await stores.outbox.claim(lease_seconds=SHORT_SECONDS, wait_seconds=0)
    second = await stores.outbox.claim(lease_seconds=LONG_SECONDS, wait_seconds=10)
    assert first is not None
    assert second is not None
    assert (first.id, first.attempt, second.id, second.attempt) == ("a.completed", 1, "a.completed", 2)
    await stores.outbox.postpone(first, 0)  # too late: another has it
    assert await stores.outbox.claim(lease_seconds=LONG_SECONDS, wait_seconds=0) is None


async def test_a_postponed_delivery_is_due_later_and_a_settled_one_never(stores: Stores) -> None:
    await stores.jobs.submit(build_job("a", webhook=WebhookTarget(url=HOOK.url)))
    await stores.jobs.cancel("a")
    delivery = await stores.outbox.claim(lease_seconds=LONG_SECONDS, wait_seconds=0)
    assert delivery is not None
    await stores.outbox.postpone(delivery, 0.2)
    assert await stores.outbox.claim(lease_seconds=LONG_SECONDS, wait_seconds=0) is None
    again = await stores.outbox.claim(lease_seconds=SHORT_SECONDS, wait_seconds=10)
    assert again is not None
    assert again.attempt == 2
    await stores.outbox.settle(again)
    assert await stores.outbox.claim(lease_seconds=1, wait_seconds=2 * SHORT_SECONDS) is None


async def test_a_waiting_deliverer_is_woken(stores: Stores) -> None:
    claiming = asyncio.create_task(stores.outbox.claim(lease_seconds=LONG_SECONDS, wait_seconds=20))
    await asyncio.sleep(0)
    await stores.jobs.submit(build_job("a", webhook=HOOK))
    delivery = await asyncio.wait_for(claiming, 5)
    assert delivery is not None
