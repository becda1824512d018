"""The bucket against a real S3 server, with the books of one process."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import obstore
import pytest
from easel_contract.server_config import BucketConfig
from easel_server.generation.images import ImageReference
from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.images import s3
from easel_server.stores.images.interface import ANNOUNCED_SECONDS, ImagesGoneError, RoomBounds
from easel_server.stores.images.memory import MemoryImages
from easel_server.stores.images.s3 import MAX_REQUESTS, BucketImages

from tests.support.eventually import eventually
from tests.support.s3_server import BUCKET, S3Server

IMAGES = (b"\x89PNG first", b"\x89PNG second" * 1000)


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 26, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_seconds(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def books(clock: Clock) -> MemoryImages:
    return MemoryImages(clock, RoomBounds(1 << 30))


@pytest.fixture
def bucket(s3_server: S3Server, books: MemoryImages) -> BucketImages:
    return open_bucket(s3_server, books)


def open_bucket(server: S3Server, books: MemoryImages, **changes: object) -> BucketImages:
    values = {"name": BUCKET, "endpoint": server.endpoint, "prefix": "tests/"} | changes
    return BucketImages(BucketConfig(**values), books, folder="art/painter")


async def test_images_come_back_as_they_were_put_under_keys_that_name_the_service_and_cannot_be_guessed(
    bucket: BucketImages,
) -> None:
    stored = await bucket.put("job", IMAGES, "image/png")
    assert await bucket.get(stored.references) == IMAGES
    assert await bucket.get(stored.references[::-1]) == IMAGES[::-1]
    again = await bucket.put("job", IMAGES, "image/png")
    keys = [reference.key for reference in (*stored.references, *again.references)]
    assert len(set(keys)) == len(keys)
    assert all(key.startswith("tests/art/painter/job-") and len(key.split("-")[1].split("/")[0]) == 32 for key in keys)
    assert [key.rpartition("/")[2] for key in keys] == ["0.png", "1.png"] * 2
    assert [reference.size_bytes for reference in stored.references] == [len(image) for image in IMAGES]


async def test_a_link_is_signed_works_without_credentials_for_a_while_and_for_its_image_alone(
    s3_server: S3Server, books: MemoryImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = open_bucket(s3_server, books)
    stored = await bucket.put("job", IMAGES, "image/webp")
    link, other = [await bucket.url(reference) for reference in stored.references]
    assert link is not None
    assert other is not None
    async with httpx2.AsyncClient() as client:
        answer = await client.get(link)
        assert (answer.status_code, answer.content) == (200, IMAGES[0])
        assert answer.headers["content-type"] == "image/webp"
        assert (await client.get(link.partition("?")[0])).status_code == 403
        assert (await client.get(f"{link.partition('?')[0]}?{other.partition('?')[2]}")).status_code == 403
    assert "X-Amz-Expires=3600" in link
    assert "X-Amz-Expires=61" in str(await open_bucket(s3_server, books, presign_seconds=61).url(stored.references[0]))


async def test_a_public_base_url_stands_in_front_of_the_key(s3_server: S3Server, books: MemoryImages) -> None:
    bucket = open_bucket(s3_server, books, public_base_url="https://images.example.com/a")
    stored = await bucket.put("job", IMAGES[:1], "image/jpeg")
    key = stored.references[0].key
    assert await bucket.url(stored.references[0]) == f"https://images.example.com/a/{key}"
    assert key.endswith("/0.jpg")


async def test_what_was_kept_before_the_service_had_a_bucket_is_found_and_has_no_link(
    bucket: BucketImages, books: MemoryImages
) -> None:
    stored = await books.put("job", IMAGES, "image/png")
    assert await bucket.get(stored.references) == IMAGES
    assert await bucket.url(stored.references[0]) is None


async def test_another_buckets_image_has_no_link(bucket: BucketImages) -> None:
    reference = ImageReference(key="a/0.png", size_bytes=1, media_type="image/png", bucket="another")
    assert await bucket.url(reference) is None


async def test_expired_images_are_deleted_and_their_room_is_free_again(
    bucket: BucketImages, books: MemoryImages, clock: Clock
) -> None:
    stored = await bucket.put("job", IMAGES, "image/png")
    books.keep(stored, holders=1, expires_at=clock() + timedelta(seconds=10))
    assert (await bucket.usage()).used_bytes == stored.size_bytes
    await bucket.purge()
    assert await bucket.get(stored.references) == IMAGES
    clock.pass_seconds(10)
    await bucket.purge()
    with pytest.raises(ImagesGoneError):
        await bucket.get(stored.references)
    assert (await bucket.usage()).used_bytes == 0


async def test_the_last_holder_takes_the_objects_along(bucket: BucketImages, books: MemoryImages, clock: Clock) -> None:
    stored = await bucket.put("job", IMAGES, "image/png")
    books.keep(stored, holders=2, expires_at=clock() + timedelta(hours=1))
    assert books.release(stored.entry) is None
    assert await bucket.get(stored.references) == IMAGES
    unused = books.release(stored.entry)
    assert unused is not None
    await bucket.delete([unused])
    with pytest.raises(ImagesGoneError):
        await bucket.get(stored.references)
    assert (await bucket.usage()).used_bytes == 0


async def test_images_whose_job_never_ended_are_deleted_too(
    bucket: BucketImages, books: MemoryImages, clock: Clock
) -> None:
    stored = await bucket.put("job", IMAGES, "image/png")
    clock.pass_seconds(ANNOUNCED_SECONDS - 1)
    await bucket.purge()
    assert await bucket.get(stored.references) == IMAGES
    clock.pass_seconds(1)
    await bucket.purge()
    with pytest.raises(ImagesGoneError):
        await bucket.get(stored.references)


async def test_a_bucket_that_is_away_says_so_and_goes_on_when_it_is_back(
    own_s3_server: S3Server, books: MemoryImages, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PROBE_SECONDS", 0.0)
    bucket = open_bucket(own_s3_server, books)
    stored = await bucket.put("job", IMAGES, "image/png")
    books.keep(stored, holders=1, expires_at=clock())
    assert not await has_problem(bucket)
    own_s3_server.kill()
    for call in (bucket.put("job", IMAGES, "image/png"), bucket.get(stored.references), bucket.purge()):
        with pytest.raises(StoreUnavailableError, match=r"check gateway\.results\.bucket") as caught:
            await call
        assert f"bucket at {own_s3_server.endpoint}/{BUCKET} is unavailable" in str(caught.value)
    assert await has_problem(bucket)
    assert (await bucket.usage()).used_bytes == stored.size_bytes  # still there, so still counted
    own_s3_server.start()

    async def is_purged() -> bool:
        clock.pass_seconds(60)
        with suppress(StoreUnavailableError):  # one that has just started may not find all of its data yet
            await bucket.purge()
        return (await bucket.usage()).used_bytes == 0

    assert await eventually(is_purged)
    assert not await has_problem(bucket)


async def has_problem(bucket: BucketImages) -> bool:
    return bucket.problem is not None


@pytest.mark.parametrize(
    ("changes", "environment", "advice"),
    [
        ({"name": "no-such-bucket"}, {}, "create the bucket"),
        ({}, {"AWS_SECRET_ACCESS_KEY": "wrong"}, "check the bucket's credentials"),
    ],
    ids=["no bucket", "wrong credentials"],
)
async def test_a_bucket_that_cannot_be_used_is_seen_before_anything_is_put(
    s3_server: S3Server,
    books: MemoryImages,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, str],
    environment: dict[str, str],
    advice: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    bucket = open_bucket(s3_server, books, **changes)
    with pytest.raises(StoreUnavailableError, match=advice) as caught:
        await bucket.purge()
    assert bucket.problem == str(caught.value)
    assert "wrong" not in str(caught.value)


async def test_many_puts_at_once_are_bounded_and_leave_the_loop_free(
    bucket: BucketImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, open_puts, most = obstore.put_async, 0, 0

    async def count(*arguments: Any, **options: Any) -> Any:
        nonlocal open_puts, most
        open_puts += 1
        most = max(most, open_puts)
        try:
            return await put(*arguments, **options)
        finally:
            open_puts -= 1

    monkeypatch.setattr(obstore, "put_async", count)
    images = [bytes([number]) * 100_000 for number in range(4 * MAX_REQUESTS)]
    stored = await asyncio.gather(*(bucket.put("job", [image], "image/png") for image in images))
    assert await bucket.get([each.references[0] for each in stored]) == tuple(images)
    assert most == MAX_REQUESTS, "one that held the loop would be alone"


@pytest.fixture(autouse=True)
def credentials(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def own_s3_server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server
