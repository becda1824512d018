"""A service that is being deleted: its jobs end with the reason, whoever waits for them hears it, nothing new comes."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
from easel_contract import names
from easel_server.generation.job import JobState
from easel_server.stores.jobs import redis as redis_jobs
from easel_server.stores.jobs.interface import HeartbeatReply, JobBounds, ServiceClosingError
from easel_server.stores.opening import Stores, open_stores

from tests.inference_server.stores.steps import claim, is_empty, job_of
from tests.support.jobs import build_job
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis

REASON = "the service was deleted"
UID = "5d0c2f9e-0000-4000-8000-000000000001"


class Service:
    """One service's stores, and what the operator writes when it is deleted."""

    def __init__(self, server: RedisServer, namespace: str, uid: str = UID) -> None:
        self.server = server
        self.prefix = names.redis_prefix(namespace, "sd", uid)
        self.stores: Stores = open_stores(server.url, namespace=namespace, service="sd", uid=uid, bounds=JobBounds())

    def close(self) -> None:
        key = self.prefix + names.REDIS_KEY_CLOSING
        self.server.command("HSET", key, names.REDIS_FIELD_CLOSING_REASON, f'"{REASON}"')


@pytest.fixture
async def service(redis_server: RedisServer) -> AsyncIterator[Service]:
    service = Service(redis_server, uuid.uuid4().hex)
    yield service
    await service.stores.close()


async def test_jobs_that_wait_fail_with_the_reason_and_their_waiters_hear_it(service: Service) -> None:
    jobs = service.stores.jobs
    await jobs.submit(build_job("a", owner="a"))
    await jobs.submit(build_job("b", owner="b"), flight_key="f")
    await jobs.submit(build_job("c", owner="c"), flight_key="f")
    waiting = [asyncio.create_task(jobs.wait(job_id, 10)) for job_id in "abc"]
    service.close()
    assert (await jobs.reap()).closed == 2, "of the jobs, two are of one flight"
    ends = [await each for each in waiting]
    assert [(end.state, end.error) for end in ends if end] == [(JobState.FAILED, REASON)] * 3
    assert (await jobs.reap()).closed == 0
    assert await is_empty(jobs)


async def test_more_jobs_than_one_call_ends_are_ended_by_the_next_ones(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_jobs, "REAP_LIMIT", 2)
    jobs = service.stores.jobs
    for number in range(5):
        await jobs.submit(build_job(f"j{number}"))
    service.close()
    assert [(await jobs.reap()).closed for _ in range(4)] == [2, 2, 1, 0]


async def test_a_job_under_way_may_finish_for_a_while_and_then_fails_too(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = service.stores.jobs
    await jobs.submit(build_job("a"))
    running = await claim(jobs)
    service.close()
    assert (await jobs.reap()).closed == 0
    assert await jobs.heartbeat(running, 1) is HeartbeatReply.CONTINUE
    monkeypatch.setattr(redis_jobs, "RUNNING_GRACE_SECONDS", 0.0)
    assert (await jobs.reap()).closed == 1
    assert (await job_of(jobs, "a")).error == REASON
    assert await jobs.heartbeat(running, 2) is HeartbeatReply.LOST


async def test_nothing_new_is_taken_and_what_is_known_can_be_asked_for_again(service: Service) -> None:
    jobs = service.stores.jobs
    known = build_job("a")
    await jobs.submit(known)
    service.close()
    with pytest.raises(ServiceClosingError, match=REASON):
        await jobs.submit(build_job("b"))
    with pytest.raises(ServiceClosingError, match=REASON):
        await jobs.submit(build_job("c"), answer=(b"image",))
    assert not (await jobs.submit(known)).created


async def test_a_run_without_a_record_does_not_keep_the_others_waiting(service: Service) -> None:
    jobs = service.stores.jobs
    await jobs.submit(build_job("a"))
    await jobs.submit(build_job("b"))
    service.server.command("DEL", service.prefix + "run:1")
    service.close()
    while (await jobs.reap()).closed:
        pass
    assert (await job_of(jobs, "b")).error == REASON
    assert await is_empty(jobs)


async def test_a_service_sees_nothing_of_an_earlier_one_of_its_name(
    service: Service, redis_server: RedisServer
) -> None:
    namespace = service.prefix.split("{")[1].split("/")[0]
    later = Service(redis_server, namespace, uid="5d0c2f9e-0000-4000-8000-000000000002")
    try:
        await service.stores.jobs.submit(build_job("a", deadline_seconds=3600))
        assert await later.stores.jobs.get("a") is None
        assert await is_empty(later.stores.jobs)
        assert await later.stores.jobs.claim("w", lease_seconds=1, wait_seconds=0) == ()
    finally:
        await later.stores.close()
