"""The result cache on a real memcached, and on one that is away, silent or mad."""

import asyncio
import logging
import random
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest
from easel_contract import names
from easel_server.stores.cache import memcached as memcached_cache
from easel_server.stores.cache.interface import CachedImages
from easel_server.stores.cache.memcached import CHUNK_BYTES, MAX_CHUNKS, MemcachedCache

from tests.support.eventually import eventually
from tests.support.memcached_server import MemcachedServer

TTL_SECONDS = 3600.0
KEY = "0123456789abcdef" * 4


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def server() -> Iterator[MemcachedServer]:
    with MemcachedServer("-m", "256") as server:
        yield server


@pytest.fixture
async def cache(server: MemcachedServer) -> AsyncIterator[MemcachedCache]:
    cache = MemcachedCache(server.address, names.redis_prefix(uuid.uuid4().hex, "sd"))
    yield cache
    await cache.close()


def random_bytes(length: int) -> bytes:
    return random.Random(length).randbytes(length)  # noqa: S311 (images, not secrets)


@pytest.mark.parametrize(
    "lengths",
    [(10,), (0,), (3, 0, 5), (CHUNK_BYTES,), (CHUNK_BYTES + 1,), (CHUNK_BYTES // 2, CHUNK_BYTES, 2 * CHUNK_BYTES)],
    ids=str,
)
async def test_images_of_any_size_come_back(cache: MemcachedCache, lengths: tuple[int, ...]) -> None:
    assert await cache.get(KEY) is None
    images = tuple(map(random_bytes, lengths))
    await cache.put(KEY, images, ttl_seconds=TTL_SECONDS, age_seconds=100)
    found = await cache.get(KEY)
    assert found is not None
    assert found.images == images
    assert 100 <= found.age_seconds < 160


async def test_a_newer_put_takes_the_place_of_an_older_one(cache: MemcachedCache) -> None:
    large, small = (random_bytes(3 * CHUNK_BYTES),), (b"small",)
    for images in (large, small, large):
        await cache.put(KEY, images, ttl_seconds=TTL_SECONDS)
        found = await cache.get(KEY)
        assert found is not None
        assert found.images == images


async def test_parts_of_two_puts_are_never_mixed(cache: MemcachedCache, server: MemcachedServer) -> None:
    others = [MemcachedCache(server.address, cache._prefix) for _ in range(3)]
    versions = [tuple(bytes([number]) * CHUNK_BYTES for _ in range(3)) for number in range(4)]

    async def put(writer: MemcachedCache, images: tuple[bytes, ...]) -> None:
        for _ in range(5):
            await writer.put(KEY, images, ttl_seconds=TTL_SECONDS)

    writing = asyncio.gather(*(put(*pair) for pair in zip([cache, *others], versions, strict=True)))
    seen = []
    while not writing.done():
        seen.append(await cache.get(KEY))
        await asyncio.sleep(0)
    await writing
    seen.append(await cache.get(KEY))
    assert all(found is None or found.images in versions for found in seen)
    assert any(seen)
    for other in others:
        await other.close()


async def test_an_entry_ends_with_its_time(cache: MemcachedCache) -> None:
    await cache.put(KEY, (b"image",), ttl_seconds=0.5)  # Memcached counts in whole seconds

    async def is_gone() -> bool:
        return await cache.get(KEY) is None

    assert await eventually(is_gone)


async def test_an_entry_that_lost_a_part_is_a_miss(cache: MemcachedCache, server: MemcachedServer) -> None:
    await cache.put(KEY, (random_bytes(3 * CHUNK_BYTES),), ttl_seconds=TTL_SECONDS)
    assert cache._client is not None
    first = await cache._client.get(cache._name(KEY))
    assert first is not None
    header = memcached_cache._HEADER.validate_json(first.value.partition(b"\n")[0])
    await cache._client.delete(memcached_cache._part_names(cache._name(KEY), header)[0])
    assert await cache.get(KEY) is None


async def test_an_entry_above_the_bound_is_not_put(cache: MemcachedCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memcached_cache, "MAX_CHUNKS", 2)
    await cache.put(KEY, (bytes(3 * CHUNK_BYTES),), ttl_seconds=TTL_SECONDS)
    assert await cache.get(KEY) is None


def test_the_largest_entry_that_can_be_configured_fits() -> None:
    assert MAX_CHUNKS * CHUNK_BYTES >= 64_000_000


async def test_an_absent_memcached_is_a_miss_and_is_left_alone_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    with MemcachedServer() as server:
        cache = MemcachedCache(server.address, "easel:{a/b}:", clock=clock)
        await cache.put(KEY, (b"image",), ttl_seconds=TTL_SECONDS)
        server.kill()
        for _ in range(3):
            await cache.put(KEY, (b"image",), ttl_seconds=TTL_SECONDS)
            assert await cache.get(KEY) is None
        assert len([record for record in caplog.records if "can't be used" in record.message]) == 1
        server.start()
        await cache.put(KEY, (b"image",), ttl_seconds=TTL_SECONDS)
        assert await cache.get(KEY) is None, "it is asked again before its pause is over"
        clock.now += memcached_cache.FIRST_PAUSE_SECONDS
        await cache.put(KEY, (b"image",), ttl_seconds=TTL_SECONDS)
        found = await cache.get(KEY)
        assert isinstance(found, CachedImages)
        assert "is back" in caplog.text
        await cache.close()


@pytest.mark.parametrize(
    "answer", [None, b"", b"GARBAGE\r\n", b"VALUE x 0 99999\r\nshort", b"SERVER_ERROR out of memory\r\n"]
)
async def test_a_memcached_that_does_not_answer_or_answers_nonsense_is_a_miss(
    answer: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memcached_cache, "GET_TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(memcached_cache, "PUT_TIMEOUT_SECONDS", 0.1)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)
        writer.close()

    silent = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    for _ in range(2):
        cache = MemcachedCache(f"127.0.0.1:{port}", "easel:{a/b}:")
        await asyncio.wait_for(cache.put(KEY, (b"image",), ttl_seconds=TTL_SECONDS), 10)
        await cache.close()
        cache = MemcachedCache(f"127.0.0.1:{port}", "easel:{a/b}:")
        assert await asyncio.wait_for(cache.get(KEY), 10) is None
        await cache.close()
    silent.close()


async def test_callers_that_leave_in_the_middle_of_a_reply_spoil_nobody_elses(cache: MemcachedCache) -> None:
    images = {f"{KEY}{index}": (random_bytes(CHUNK_BYTES + index),) for index in range(4)}
    for key, value in images.items():
        await cache.put(key, value, ttl_seconds=TTL_SECONDS)
    for number in range(40):
        leaving = asyncio.create_task(cache.get(f"{KEY}{number % 4}"))
        for _ in range(number % 7):
            await asyncio.sleep(0)
        leaving.cancel()
        key = f"{KEY}{(number + 1) % 4}"
        found = await cache.get(key)
        assert found is None or found.images == images[key]
        await asyncio.wait([leaving])
    assert await cache.get(f"{KEY}0") is not None


async def test_cached_images_carry_the_warnings_of_their_job(cache: MemcachedCache) -> None:
    await cache.put(KEY, (b"image",), ttl_seconds=TTL_SECONDS, warnings=("a “first”", "a second"))
    found = await cache.get(KEY)
    assert found is not None
    assert (found.images, found.warnings) == ((b"image",), ("a “first”", "a second"))
