"""A customer's jobs, newest first, page by page."""

import uuid
from collections.abc import Callable

import pytest
from easel_contract import names
from easel_server.stores.jobs.interface import MAX_LISTED, JobBounds, Jobs
from easel_server.stores.opening import Stores, open_stores
from redis.asyncio import Redis

from tests.support.eventually import eventually
from tests.support.jobs import build_job
from tests.support.redis_server import RedisServer


async def list_all(jobs: Jobs, owner: str, *, limit: int) -> list[list[str]]:
    """Ids, page by page."""
    pages, older_than = [], None
    while True:
        page = await jobs.list_newest(owner, older_than=older_than, limit=limit)
        pages.append([job.id for job in page.jobs])
        if page.older_than is None:
            return pages
        older_than = page.older_than


async def test_own_jobs_are_listed_newest_first_and_no_one_elses(jobs: Jobs) -> None:
    assert await list_all(jobs, "ann", limit=2) == [[]]
    for index in range(5):
        await jobs.submit(build_job(f"ann-{index}", owner="ann"))
        await jobs.submit(build_job(f"bob-{index}", owner="bob"))
    assert await list_all(jobs, "ann", limit=2) == [["ann-4", "ann-3"], ["ann-2", "ann-1"], ["ann-0"]]
    assert await list_all(jobs, "ann", limit=5) == [[f"ann-{index}" for index in (4, 3, 2, 1, 0)]]
    assert await list_all(jobs, "ann:*", limit=5) == [[]]


async def test_a_listed_job_is_as_it_is_got(jobs: Jobs) -> None:
    await jobs.submit(build_job("waiting", owner="ann"))
    await jobs.submit(build_job("canceled", owner="ann"))
    await jobs.cancel("canceled")
    page = await jobs.list_newest("ann", limit=10)
    assert list(page.jobs) == [await jobs.get("canceled"), await jobs.get("waiting")]


async def test_a_page_goes_on_where_the_last_one_ended_whatever_came_since(jobs: Jobs) -> None:
    for index in range(4):
        await jobs.submit(build_job(f"job-{index}", owner="ann"))
    first = await jobs.list_newest("ann", limit=2)
    await jobs.submit(build_job("newer", owner="ann"))
    second = await jobs.list_newest("ann", older_than=first.older_than, limit=2)
    assert [job.id for job in second.jobs] == ["job-1", "job-0"]


async def test_followers_and_answered_jobs_are_listed_too(jobs: Jobs) -> None:
    await jobs.submit(build_job("leader", owner="ann"), flight_key="equal")
    await jobs.submit(build_job("follower", owner="ann"), flight_key="equal")
    await jobs.submit(build_job("answered", owner="ann"), answer=(b"image",))
    assert await list_all(jobs, "ann", limit=10) == [["answered", "follower", "leader"]]


async def test_an_expired_job_is_listed_no_more(build_stores: Callable[..., Stores]) -> None:
    jobs = build_stores(JobBounds(result_ttl_seconds=0.05)).jobs
    await jobs.submit(build_job("gone", owner="ann"))
    await jobs.cancel("gone")
    await jobs.submit(build_job("waiting", owner="ann"))

    async def is_gone() -> bool:
        await jobs.reap()
        return await jobs.get("gone") is None

    assert await eventually(is_gone)
    assert await list_all(jobs, "ann", limit=1) == [["waiting"]]


async def test_the_list_is_bounded(jobs: Jobs) -> None:
    for index in range(MAX_LISTED + 5):
        await jobs.submit(build_job(f"job-{index}", owner="ann"), flight_key="equal", answer=(b"",))
    pages = await list_all(jobs, "ann", limit=400)
    assert [len(page) for page in pages] == [400, 400, 200]
    assert pages[-1][-1] == "job-5"


@pytest.mark.redis
async def test_a_damaged_or_lost_job_is_left_out_of_the_list(redis_server: RedisServer) -> None:
    namespace = uuid.uuid4().hex
    stores = open_stores(redis_server.url, namespace=namespace, service="sd", bounds=JobBounds())
    prefix = names.redis_prefix(namespace, "sd")
    for job_id in ("whole", "damaged", "lost"):
        await stores.jobs.submit(build_job(job_id, owner="ann"))
    async with Redis.from_url(redis_server.url) as client:
        await client.hset(f"{prefix}job:damaged", "content", "no JSON")
        await client.delete(f"{prefix}job:lost")
    assert await list_all(stores.jobs, "ann", limit=5) == [["whole"]]
    await stores.close()
