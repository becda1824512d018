"""Jobs whose images are in a bucket, from submit to the deletion of their objects; jobs in memory and on Redis."""

import itertools
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress

import obstore
import pytest
from easel_contract.server_config import BucketConfig
from easel_server.generation import messages
from easel_server.generation.job import JobState
from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.images.interface import StoreFullError
from easel_server.stores.jobs.interface import Claim, Failed, JobBounds
from easel_server.stores.opening import Stores, open_stores
from obstore.store import S3Store
from redis.asyncio import Redis

from tests.inference_server.stores.steps import IMAGES, claim, job_of
from tests.support.eventually import eventually
from tests.support.jobs import build_job
from tests.support.redis_server import RedisServer
from tests.support.s3_server import BUCKET, S3Server
from tests.support.stored_images import read_images, succeed

INPUTS = {"one": b"input " * 1000, "two": b"mask"}
OpenService = Callable[..., Stores]
# A process without Redis has inputs in its memory, and forgets all when its configuration changes.
ON_REDIS = pytest.mark.parametrize("open_service", [pytest.param("redis", marks=pytest.mark.redis)], indirect=True)


@pytest.fixture(autouse=True)
def credentials(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def namespace() -> str:
    return uuid.uuid4().hex


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
async def open_service(
    request: pytest.FixtureRequest, s3_server: S3Server, namespace: str
) -> AsyncIterator[OpenService]:
    made: list[Stores] = []

    def open_one(bounds: JobBounds | None = None, endpoint: str | None = s3_server.endpoint) -> Stores:
        url = request.getfixturevalue("redis_server").url if request.param == "redis" else None
        bucket = BucketConfig(name=BUCKET, endpoint=endpoint) if endpoint else None
        stores = open_stores(url, namespace=namespace, service="sd", bounds=bounds or JobBounds(), bucket=bucket)
        made.append(stores)
        return stores

    yield open_one
    for stores in made:
        await stores.close()


def open_bucket(server: S3Server) -> S3Store:
    return S3Store(BUCKET, endpoint=server.endpoint, region="us-east-1", client_options={"allow_http": True})


def keys_in_bucket(server: S3Server, namespace: str) -> set[str]:
    found = itertools.chain.from_iterable(obstore.list(open_bucket(server), f"{namespace}/"))
    return {each["path"] for each in found}


async def test_images_and_inputs_are_in_the_bucket_and_go_when_they_are_not_needed(
    open_service: OpenService, s3_server: S3Server, namespace: str
) -> None:
    stores = open_service()
    await stores.jobs.submit(build_job("a"), inputs=INPUTS)
    claimed = await claim(stores.jobs)
    assert dict(claimed.inputs) == INPUTS
    assert await succeed(stores.jobs, claimed, IMAGES)
    job = await job_of(stores.jobs, "a")
    assert await stores.images.get(job.images) == IMAGES
    await stores.images.purge()
    assert keys_in_bucket(s3_server, namespace) == {reference.key for reference in job.images}
    await stores.jobs.remove_data("a")
    assert keys_in_bucket(s3_server, namespace) == set()
    assert await read_images(stores.jobs, "a") == ()
    assert (await stores.images.usage()).used_bytes == 0


@pytest.mark.redis
async def test_redis_holds_no_image(s3_server: S3Server, redis_server: RedisServer, namespace: str) -> None:
    bucket = BucketConfig(name=BUCKET, endpoint=s3_server.endpoint)
    stores = open_stores(redis_server.url, namespace=namespace, service="sd", bounds=JobBounds(), bucket=bucket)
    large = b"x" * 100_000
    try:
        await stores.jobs.submit(build_job("a"), inputs={"one": large})
        await stores.jobs.submit(build_job("b"), answer=(large,))
        await succeed(stores.jobs, await claim(stores.jobs), (large,))
        async with Redis.from_url(redis_server.url, protocol=2) as client:
            keys = [key async for key in client.scan_iter(f"easel:{{{namespace}/*", count=1000)]
            sizes = {key: await client.memory_usage(key) or 0 for key in keys}
        assert keys
        assert sum(sizes.values()) < 20_000, sizes
        assert await read_images(stores.jobs, "b") == (large,)
    finally:
        await stores.close()


@pytest.mark.parametrize("end", ["failed", "canceled"])
async def test_inputs_go_however_the_job_ends(
    open_service: OpenService, s3_server: S3Server, namespace: str, end: str
) -> None:
    stores = open_service()
    await stores.jobs.submit(build_job("a"), inputs=INPUTS)
    if end == "failed":
        await stores.jobs.finish(await claim(stores.jobs), Failed("no"))
    else:
        await stores.jobs.cancel("a")
    await stores.images.purge()
    assert keys_in_bucket(s3_server, namespace) == set()


async def test_what_a_refused_or_repeated_submit_brought_is_deleted(
    open_service: OpenService, s3_server: S3Server, namespace: str
) -> None:
    stores = open_service(JobBounds(max_image_bytes=40_000))
    await stores.jobs.submit(build_job("a"), answer=IMAGES)
    stored = {reference.key for reference in (await job_of(stores.jobs, "a")).images}
    await stores.jobs.submit(build_job("a"), answer=IMAGES)
    with pytest.raises(StoreFullError):
        await stores.jobs.submit(build_job("b", images=3), inputs=INPUTS)
    with pytest.raises(StoreFullError):
        await stores.jobs.submit(build_job("c"), answer=(b"x" * 50_000,))
    assert keys_in_bucket(s3_server, namespace) == stored


async def test_images_that_no_job_took_are_deleted(
    open_service: OpenService, s3_server: S3Server, namespace: str
) -> None:
    stores = open_service()
    stored = await stores.images.put("a", (b"stale",), "image/png")
    assert keys_in_bucket(s3_server, namespace) == set(stored.object_keys)
    await stores.images.delete([stored.unused])
    assert keys_in_bucket(s3_server, namespace) == set()


async def test_expired_results_are_deleted_from_the_bucket(
    open_service: OpenService, s3_server: S3Server, namespace: str
) -> None:
    stores = open_service(JobBounds(result_ttl_seconds=0.05))
    await stores.jobs.submit(build_job("a"))
    await succeed(stores.jobs, await claim(stores.jobs), IMAGES)

    async def is_empty() -> bool:
        await stores.images.purge()
        return keys_in_bucket(s3_server, namespace) == set()

    assert await eventually(is_empty)
    assert (await stores.images.usage()).used_bytes == 0


@ON_REDIS
async def test_a_service_that_gets_a_bucket_keeps_what_it_has(open_service: OpenService) -> None:
    before = open_service(endpoint=None)
    await before.jobs.submit(build_job("a"))
    await succeed(before.jobs, await claim(before.jobs), IMAGES)
    after = open_service()
    assert await read_images(after.jobs, "a") == IMAGES
    await after.jobs.remove_data("a")
    assert (await after.images.usage()).used_bytes == 0


@ON_REDIS
async def test_jobs_whose_inputs_cannot_be_fetched_go_back_to_the_queue(
    open_service: OpenService, own_s3_server: S3Server
) -> None:
    stores = open_service(endpoint=own_s3_server.endpoint)
    await stores.jobs.submit(build_job("a"), inputs=INPUTS)
    own_s3_server.kill()
    with pytest.raises(StoreUnavailableError, match=r"bucket at .* is unavailable"):
        await claim(stores.jobs)
    job = await job_of(stores.jobs, "a")
    assert (job.state, job.attempts) == (JobState.WAITING, 0)
    own_s3_server.start()

    async def claim_again() -> Claim | None:  # a server that has just started may not find all of its data yet
        with suppress(StoreUnavailableError):
            return await claim(stores.jobs)
        return None

    claimed = await eventually(claim_again)
    assert claimed is not None
    assert dict(claimed.inputs) == INPUTS


@ON_REDIS
async def test_a_job_whose_inputs_somebody_deleted_fails_and_the_others_run(
    open_service: OpenService, s3_server: S3Server, namespace: str
) -> None:
    stores = open_service()
    await stores.jobs.submit(build_job("a"), inputs=INPUTS)
    obstore.delete(open_bucket(s3_server), sorted(keys_in_bucket(s3_server, namespace)))
    await stores.jobs.submit(build_job("b"), inputs=INPUTS)
    claims = await stores.jobs.claim("w", lease_seconds=60, wait_seconds=0, max_jobs=2, max_images=2)
    assert [claim.job.id for claim in claims] == ["b"]
    job = await job_of(stores.jobs, "a")
    assert (job.state, job.error) == (JobState.FAILED, messages.INPUTS_GONE)


@pytest.fixture
def own_s3_server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server
