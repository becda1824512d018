"""A gateway's own copies beside the shared cache."""

import time
from collections.abc import Callable

from easel_contract.gateway_config import CacheConfig
from easel_server.gateway.ending import Ending
from easel_server.gateway.refusals import RefusalError
from easel_server.gateway.results import Results
from easel_server.generation.job import JobState
from easel_server.generation.models import build_cache_key
from easel_server.generation.request import CachePolicy
from easel_server.stores.cache.interface import CachedImages
from easel_server.stores.cache.memory import MemoryResultCache
from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.jobs.interface import JobBounds
from easel_server.stores.memory_wakeups import utc_now
from easel_server.stores.opening import DEFAULT_CACHE_BYTES, open_memory_stores

from tests.support.jobs import build_identity, build_job

IMAGES = (b"image",)
ANY = CachePolicy()
IDENTITY = build_identity()
KEY = build_cache_key("digest", IDENTITY)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def nothing_failed():
    return None


def build_results(shared: "Shared", config: CacheConfig, clock: Callable[[], float] = time.monotonic) -> Results:
    stores = open_memory_stores(JobBounds())
    return Results(
        stores.jobs, stores.images, shared, config, Ending(jobs_outlive=True), clock, load_failure=nothing_failed
    )


async def find(store: Results, policy: CachePolicy = ANY) -> CachedImages:
    found = await store.find_cached(KEY, policy)
    assert found is not None
    return found


async def find_copy(store: Results, job_id: str) -> tuple[bytes, ...] | None:
    """The images that this gateway has of a job which the job store no longer has."""
    job = build_job(job_id).model_copy(
        update={"state": JobState.SUCCEEDED, "cache_key": "digest", "generated_by": IDENTITY}
    )
    try:
        return await store.images(job)
    except RefusalError:
        return None


class Shared(MemoryResultCache):
    """Counts what is asked of it, and may be away."""

    def __init__(self) -> None:
        super().__init__(utc_now, DEFAULT_CACHE_BYTES)
        self.gets = self.puts = 0
        self.is_away = False

    async def get(self, key):
        self.gets += 1
        return await super().get(key)

    async def put(self, key, images, *, ttl_seconds, age_seconds=0.0, warnings=()):
        if self.is_away:
            raise StoreUnavailableError("redis:6379", "put", "ConnectionError", "wait")
        self.puts += 1
        await super().put(key, images, ttl_seconds=ttl_seconds, age_seconds=age_seconds, warnings=warnings)


async def test_what_was_found_once_is_not_fetched_again():
    shared = Shared()
    await shared.put(KEY, IMAGES, ttl_seconds=60)
    store = build_results(shared, CacheConfig())
    for _ in range(3):
        assert (await find(store)).images == IMAGES
    assert shared.gets == 1


async def test_a_copy_is_as_old_as_its_original():
    clock = Clock()
    store = build_results(Shared(), CacheConfig(ttl_seconds=1000), clock)
    await store.keep("job", KEY, CachedImages(IMAGES, 100.0))
    clock.now += 50
    assert (await find(store)).age_seconds == 150
    assert await store.find_cached(KEY, CachePolicy(max_age_seconds=90)) is None
    assert await store.find_cached(KEY, CachePolicy(read=False)) is None
    clock.now += 851
    assert await find_copy(store, "job") is None


async def test_each_jobs_images_are_kept_once_and_those_of_equal_jobs_too():
    shared = Shared()
    store = build_results(shared, CacheConfig())
    for job in ("leader", "leader", "follower"):
        await store.keep(job, KEY, CachedImages(IMAGES, 1.0))
    assert shared.puts == 1
    assert await find_copy(store, "leader") == IMAGES
    assert await find_copy(store, "follower") is None


async def test_newer_images_take_the_place_of_older_ones():
    shared = Shared()
    store = build_results(shared, CacheConfig())
    await store.keep("old", KEY, CachedImages(IMAGES, 600.0))
    await store.keep("new", KEY, CachedImages((b"new",), 0.0))
    assert (await find(store)).images == (b"new",)
    assert shared.puts == 2


async def test_images_are_kept_for_what_is_left_of_their_time():
    shared = Shared()
    store = build_results(shared, CacheConfig(ttl_seconds=60))
    await store.keep("old", KEY, CachedImages(IMAGES, 61.0))
    assert await store.find_cached(KEY, ANY) is None
    assert shared.puts == 0


async def test_a_shared_cache_that_is_away_leaves_the_copy():
    shared = Shared()
    shared.is_away = True
    store = build_results(shared, CacheConfig())
    await store.keep("job", KEY, CachedImages(IMAGES, 0.0))
    assert (await find(store)).images == IMAGES
