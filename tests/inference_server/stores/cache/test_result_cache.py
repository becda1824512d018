"""What the result cache promises, in memory and on Redis."""

import pytest
from easel_server.stores.cache.interface import CACHE_ENTRY_OVERHEAD_BYTES, CachedImages, ResultCache
from easel_server.stores.opening import Stores

from tests.inference_server.stores.conftest import BuildStores
from tests.support.eventually import eventually

LONG_SECONDS = 3600.0
IMAGES = (b"first image", b"second image \x00\xff")
KILOBYTE = 1000


@pytest.fixture
def cache(stores: Stores) -> ResultCache:
    return stores.cache


async def images_of(cache: ResultCache, key: str) -> tuple[bytes, ...] | None:
    found = await cache.get(key)
    return found.images if found else None


async def test_cached_images_come_back_until_their_time_is_over(cache: ResultCache) -> None:
    assert await cache.get("key") is None
    await cache.put("key", (b"old", b"older"), ttl_seconds=LONG_SECONDS)
    await cache.put("key", IMAGES, ttl_seconds=0.2)
    assert await images_of(cache, "key") == IMAGES

    async def is_gone() -> bool:
        return await cache.get("key") is None

    assert await eventually(is_gone)


async def test_cached_images_know_their_age(cache: ResultCache) -> None:
    await cache.put("key", IMAGES, ttl_seconds=LONG_SECONDS, age_seconds=100)
    found = await cache.get("key")
    assert found is not None
    assert 100 <= found.age_seconds < 160


async def test_the_least_recently_used_make_room_and_no_more_of_them_than_needed(build_stores: BuildStores) -> None:
    cache = build_stores(max_cache_bytes=4 * (KILOBYTE + CACHE_ENTRY_OVERHEAD_BYTES)).cache
    for name in "abcd":
        await cache.put(name, (name.encode() * KILOBYTE,), ttl_seconds=LONG_SECONDS)
    assert await images_of(cache, "a") is not None  # now b is the one that was used least recently
    await cache.put("e", (b"e" * KILOBYTE,), ttl_seconds=LONG_SECONDS)
    kept = {name for name in "abcde" if await images_of(cache, name)}
    assert kept == {"a", "c", "d", "e"}


async def test_many_entries_never_take_more_than_the_budget(build_stores: BuildStores) -> None:
    budget = 20 * KILOBYTE
    cache = build_stores(max_cache_bytes=budget).cache
    for index in range(100):
        size = 1 + index * 37 % (3 * KILOBYTE)
        await cache.put(f"key-{index % 60}", (b"x" * size,), ttl_seconds=LONG_SECONDS)
        found = [await cache.get(f"key-{index}") for index in range(60)]
        assert sum(len(entry.images[0]) for entry in found if entry) <= budget
    assert any(found)


async def test_what_expired_frees_its_room(build_stores: BuildStores) -> None:
    cache = build_stores(max_cache_bytes=2 * KILOBYTE).cache
    await cache.put("kept", (b"k" * 500,), ttl_seconds=LONG_SECONDS)
    await cache.put("passing", (b"p" * 400,), ttl_seconds=0.05)

    async def is_gone() -> bool:
        return await cache.get("passing") is None

    assert await eventually(is_gone)
    await cache.put("new", (b"n" * 400,), ttl_seconds=LONG_SECONDS)
    assert await images_of(cache, "kept") is not None


async def test_an_entry_above_the_budget_is_not_kept_and_leaves_the_others_alone(build_stores: BuildStores) -> None:
    cache = build_stores(max_cache_bytes=2 * KILOBYTE).cache
    await cache.put("small", (b"s",), ttl_seconds=LONG_SECONDS)
    await cache.put("large", (b"l" * 3 * KILOBYTE,), ttl_seconds=LONG_SECONDS)
    assert await cache.get("large") is None
    assert await images_of(cache, "small") == (b"s",)


@pytest.mark.parametrize("age_seconds", [0.0, 12.5])
async def test_a_cached_entry_is_a_value(cache: ResultCache, age_seconds: float) -> None:
    await cache.put("key", IMAGES, ttl_seconds=LONG_SECONDS, age_seconds=age_seconds)
    found = await cache.get("key")
    assert isinstance(found, CachedImages)
    assert found.images == IMAGES


async def test_cached_images_carry_the_warnings_of_their_job(cache: ResultCache) -> None:
    await cache.put("key", IMAGES, ttl_seconds=LONG_SECONDS, warnings=("a “first”", "a second"))
    found = await cache.get("key")
    assert found is not None
    assert (found.images, found.warnings) == (IMAGES, ("a “first”", "a second"))
    await cache.put("key", IMAGES, ttl_seconds=LONG_SECONDS)
    again = await cache.get("key")
    assert again is not None
    assert again.warnings == ()
