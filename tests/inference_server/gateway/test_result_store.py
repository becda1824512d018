"""A gateway's own copies beside the shared cache."""

from easel_contract.server_config import CacheConfig
from easel_server.gateway.results import ResultStore
from easel_server.generation.request import CachePolicy
from easel_server.stores.cache.interface import CachedImages
from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.jobs.interface import BrokerSettings
from easel_server.stores.memory import MemoryBroker

IMAGES = (b"image",)
ANY = CachePolicy()


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def find(store: ResultStore, policy: CachePolicy = ANY) -> CachedImages:
    found = await store.find("key", policy)
    assert found is not None
    return found


class Shared(MemoryBroker):
    """Counts what is asked of it, and may be away."""

    def __init__(self) -> None:
        super().__init__(BrokerSettings())
        self.gets = self.puts = 0
        self.is_away = False

    async def cache_get(self, key):
        self.gets += 1
        return await super().cache_get(key)

    async def cache_put(self, key, images, *, ttl_seconds, age_seconds=0.0):
        if self.is_away:
            raise StoreUnavailableError("redis:6379", "cache_put", "ConnectionError", "wait")
        self.puts += 1
        await super().cache_put(key, images, ttl_seconds=ttl_seconds, age_seconds=age_seconds)


async def test_what_was_found_once_is_not_fetched_again():
    shared = Shared()
    await shared.cache_put("key", IMAGES, ttl_seconds=60)
    store = ResultStore(shared, CacheConfig())
    for _ in range(3):
        assert (await find(store)).images == IMAGES
    assert shared.gets == 1


async def test_a_copy_is_as_old_as_its_original():
    clock = Clock()
    store = ResultStore(Shared(), CacheConfig(ttl_seconds=1000), clock)
    await store.keep("job", "key", CachedImages(IMAGES, 100.0))
    clock.now += 50
    assert (await find(store)).age_seconds == 150
    assert await store.find("key", CachePolicy(max_age_seconds=90)) is None
    assert await store.find("key", CachePolicy(read=False)) is None
    clock.now += 851
    assert store.find_drawn_by("job", "key") is None


async def test_each_jobs_images_are_kept_once_and_those_of_equal_jobs_too():
    shared = Shared()
    store = ResultStore(shared, CacheConfig())
    for job in ("leader", "leader", "follower"):
        await store.keep(job, "key", CachedImages(IMAGES, 1.0))
    assert shared.puts == 1
    assert store.find_drawn_by("leader", "key") == IMAGES
    assert store.find_drawn_by("follower", "key") is None


async def test_newer_images_take_the_place_of_older_ones():
    shared = Shared()
    store = ResultStore(shared, CacheConfig())
    await store.keep("old", "key", CachedImages(IMAGES, 600.0))
    await store.keep("new", "key", CachedImages((b"new",), 0.0))
    assert (await find(store)).images == (b"new",)
    assert shared.puts == 2


async def test_images_are_kept_for_what_is_left_of_their_time():
    shared = Shared()
    store = ResultStore(shared, CacheConfig(ttl_seconds=60))
    await store.keep("old", "key", CachedImages(IMAGES, 61.0))
    assert await store.find("key", ANY) is None
    assert shared.puts == 0


async def test_a_shared_cache_that_is_away_leaves_the_copy():
    shared = Shared()
    shared.is_away = True
    store = ResultStore(shared, CacheConfig())
    await store.keep("job", "key", CachedImages(IMAGES, 0.0))
    assert (await find(store)).images == IMAGES
