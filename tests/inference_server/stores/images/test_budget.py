"""The budget for images: what waits or runs counts as what it may become, what is finished as what it is."""

import uuid
from collections.abc import Callable

import pytest
from easel_server.generation.images import max_result_bytes
from easel_server.generation.job import Job, JobState
from easel_server.stores.images.interface import (
    IMAGE_OVERHEAD_BYTES,
    ImagesGoneError,
    StoreFullError,
    build_reservation,
)
from easel_server.stores.jobs.interface import Failed, JobBounds
from easel_server.stores.opening import Stores, open_stores

from tests.inference_server.stores.steps import IMAGES, claim, job_of
from tests.support.eventually import eventually
from tests.support.jobs import build_job, build_parameters
from tests.support.redis_server import RedisServer
from tests.support.stored_images import read_images, succeed

BuildStores = Callable[..., Stores]

ONE_JOB = IMAGE_OVERHEAD_BYTES + max_result_bytes(build_parameters())
FOR_TWO = JobBounds(max_image_bytes=2 * ONE_JOB)
TAKEN = sum(IMAGE_OVERHEAD_BYTES + len(image) for image in IMAGES)


@pytest.fixture
def full(build_stores: BuildStores) -> Stores:
    return build_stores(FOR_TWO)


async def submit_until_full(stores: Stores) -> StoreFullError:
    await stores.jobs.submit(build_job("a"))
    await stores.jobs.submit(build_job("b"))
    return await refuse(stores)


async def refuse(stores: Stores) -> StoreFullError:
    with pytest.raises(StoreFullError) as caught:
        await stores.jobs.submit(build_job("c"))
    assert await stores.jobs.get("c") is None
    return caught.value


async def figures(stores: Stores) -> tuple[int, int]:
    usage = await stores.images.usage()
    return usage.used_bytes, usage.reserved_bytes


async def test_a_job_that_may_not_fit_is_refused_with_the_figures(full: Stores) -> None:
    error = await submit_until_full(full)
    assert (error.needed_bytes, error.usage.reserved_bytes) == (ONE_JOB, 2 * ONE_JOB)
    assert error.retry_seconds == 5  # nothing that is finished expires: what is under way has all the room
    assert str(error) == (
        "the store for images is full: of 38.7 KiB for this service's images 0 B are taken and 38.7 KiB reserved for "
        "requests under way, and this one may need 19.3 KiB; room comes back as requests under way end; "
        "try again later, or raise gateway.results.maxBytes, lower "
        "gateway.results.ttlSeconds, or keep images in a bucket"
    )
    assert (await full.images.usage()).is_full


async def test_jobs_under_way_finish_in_a_full_store_and_can_be_fetched(full: Stores) -> None:
    await submit_until_full(full)
    for name in ("a", "b"):
        claimed = await claim(full.jobs)
        assert await succeed(full.jobs, claimed, IMAGES)
        assert await read_images(full.jobs, name) == IMAGES
    assert await figures(full) == (2 * TAKEN, 0)


async def test_images_that_are_smaller_than_feared_make_room(full: Stores) -> None:
    await submit_until_full(full)
    await succeed(full.jobs, await claim(full.jobs), IMAGES)
    assert await figures(full) == (TAKEN, ONE_JOB)
    await full.jobs.submit(build_job("small", width_pixels=8, height_pixels=8))


@pytest.mark.parametrize("end", ["failed", "canceled while it waits", "canceled while it runs"])
async def test_a_job_that_ends_otherwise_frees_what_it_had_reserved(full: Stores, end: str) -> None:
    await submit_until_full(full)
    if end == "canceled while it waits":
        await full.jobs.cancel("a")
    else:
        claimed = await claim(full.jobs)
        await full.jobs.cancel("a")
        await full.jobs.finish(claimed, Failed("no"))
    assert await figures(full) == (0, ONE_JOB)
    await full.jobs.submit(build_job("c"))


async def test_a_job_that_is_released_keeps_its_room(full: Stores) -> None:
    await submit_until_full(full)
    await full.jobs.release(await claim(full.jobs))
    assert await figures(full) == (0, 2 * ONE_JOB)


async def test_a_full_store_takes_jobs_again_once_images_were_removed(full: Stores) -> None:
    large = (b"x" * ONE_JOB,)  # more than was reserved: never refused all the same
    await submit_until_full(full)
    for _ in range(2):
        await succeed(full.jobs, await claim(full.jobs), large)
    error = await refuse(full)
    assert error.retry_seconds == pytest.approx(FOR_TWO.result_ttl_seconds, abs=5)
    assert f"the next results expire in {error.retry_seconds:.0f} s" in str(error)
    await full.jobs.remove_data("a")
    await full.jobs.remove_data("b")
    assert await figures(full) == (0, 0)
    assert not (await full.images.usage()).is_full
    await full.jobs.submit(build_job("c"))


async def test_a_full_store_takes_jobs_again_once_images_have_expired(build_stores: BuildStores) -> None:
    stores = build_stores(JobBounds(max_image_bytes=2 * ONE_JOB, result_ttl_seconds=0.05))
    await submit_until_full(stores)
    for _ in range(2):
        await succeed(stores.jobs, await claim(stores.jobs), (b"x" * ONE_JOB,))

    async def is_free() -> bool:
        await stores.images.purge()
        return await figures(stores) == (0, 0)

    assert await eventually(is_free)
    await stores.jobs.submit(build_job("c"))


async def test_removed_images_are_gone_and_the_job_says_so(full: Stores) -> None:
    await full.jobs.submit(build_job("a"))
    await succeed(full.jobs, await claim(full.jobs), IMAGES)
    references = (await job_of(full.jobs, "a")).images
    await full.jobs.remove_data("a")
    await full.jobs.remove_data("a")  # repeated
    job = await job_of(full.jobs, "a")
    assert (job.state, job.images, job.data_removed) == (JobState.SUCCEEDED, (), True)
    with pytest.raises(ImagesGoneError):
        await full.images.get(references)


async def test_nothing_is_removed_of_a_job_that_has_no_images_yet(full: Stores) -> None:
    await full.jobs.submit(build_job("a"))
    await full.jobs.remove_data("a")
    await full.jobs.remove_data("unknown")
    claimed = await claim(full.jobs)
    await full.jobs.remove_data("a")
    assert await succeed(full.jobs, claimed, IMAGES)
    assert await read_images(full.jobs, "a") == IMAGES


async def test_a_flight_has_its_room_once_and_its_images_until_nobody_has_them(full: Stores) -> None:
    for name in ("a", "b", "c"):
        await full.jobs.submit(build_job(name), flight_key="flight")
    assert await figures(full) == (0, ONE_JOB)
    await succeed(full.jobs, await claim(full.jobs), IMAGES)
    await full.jobs.remove_data("a")
    await full.jobs.remove_data("a")
    await full.jobs.remove_data("c")
    assert await read_images(full.jobs, "b") == IMAGES
    assert (await job_of(full.jobs, "c")).data_removed
    assert await figures(full) == (TAKEN, 0)
    await full.jobs.remove_data("b")
    assert await figures(full) == (0, 0)


async def test_joining_a_flight_needs_no_room(full: Stores) -> None:
    await full.jobs.submit(build_job("a"), flight_key="flight")
    await full.jobs.submit(build_job("b"))
    await refuse(full)
    assert (await full.jobs.submit(build_job("c"), flight_key="flight")).shared


async def test_inputs_and_previews_count_while_their_job_is_under_way(build_stores: BuildStores) -> None:
    stores = build_stores()
    job = build_job("a").model_copy(update={"wanted_previews": 2})
    inputs = {"one": b"x" * 1000, "two": b"y" * 500}
    await stores.jobs.submit(job, inputs=inputs)
    assert await figures(stores) == (0, build_reservation(job, inputs).size_bytes)
    assert build_reservation(job, inputs).size_bytes > ONE_JOB + 1500
    await stores.jobs.cancel("a")
    assert await figures(stores) == (0, 0)


async def test_a_known_answer_counts_as_what_it_is(full: Stores) -> None:
    await full.jobs.submit(build_job("a"), answer=IMAGES)
    assert await figures(full) == (TAKEN, 0)
    await full.jobs.submit(build_job("a"), answer=IMAGES)  # repeated
    assert await figures(full) == (TAKEN, 0)
    with pytest.raises(StoreFullError):
        await full.jobs.submit(build_job("b"), answer=(b"x" * 2 * ONE_JOB,))
    assert await figures(full) == (TAKEN, 0)


async def test_a_request_that_no_empty_store_could_hold_says_so_and_does_not_make_the_store_full(full: Stores) -> None:
    with pytest.raises(
        StoreFullError, match=r"ask for fewer or smaller images, or raise gateway\.results\.maxBytes"
    ) as caught:
        await full.jobs.submit(build_job("a", images=3))
    assert caught.value.retry_seconds is None
    assert not (await full.images.usage()).is_full


@pytest.mark.redis
async def test_one_full_service_leaves_another_on_the_same_redis_alone(redis_server: RedisServer) -> None:
    namespace = uuid.uuid4().hex
    one, other = (
        open_stores(redis_server.url, namespace=namespace, service=service, bounds=FOR_TWO)
        for service in ("one", "other")
    )
    try:
        await submit_until_full(one)
        assert await figures(other) == (0, 0)
        await other.jobs.submit(build_job("c"))
        await succeed(other.jobs, await claim(other.jobs), IMAGES)
        assert await read_images(other.jobs, "c") == IMAGES
    finally:
        await one.close()
        await other.close()


@pytest.mark.redis
async def test_what_an_earlier_version_kept_is_found_and_not_removed(redis_server: RedisServer) -> None:
    """It wrote the same list, and neither references nor books."""
    namespace = uuid.uuid4().hex
    stores = open_stores(redis_server.url, namespace=namespace, service="sd", bounds=JobBounds())
    try:
        await stores.jobs.submit(build_job("a", images=2))
        await succeed(stores.jobs, await claim(stores.jobs), IMAGES)
        redis_server.command("HDEL", f"easel:{{{namespace}/sd}}:job:a", "images", "image_bytes")
        assert await read_images(stores.jobs, "a") == IMAGES
        await stores.jobs.remove_data("a")
        assert await read_images(stores.jobs, "a") == IMAGES
    finally:
        await stores.close()


@pytest.mark.redis
async def test_room_that_an_earlier_versions_worker_did_not_free_is_free_when_nothing_is_under_way(
    redis_server: RedisServer,
) -> None:
    namespace = uuid.uuid4().hex
    stores = open_stores(redis_server.url, namespace=namespace, service="sd", bounds=FOR_TWO)
    try:
        redis_server.command("HSET", f"easel:{{{namespace}/sd}}:image:sums", "reserved", str(ONE_JOB))
        await stores.jobs.submit(build_job("a"))
        await succeed(stores.jobs, await claim(stores.jobs), IMAGES)
        assert await figures(stores) == (TAKEN, 0)
    finally:
        await stores.close()


INPUTS = {"one": b"x" * 600}


def build_edit(job_id: str, owner: str = "anonymous") -> Job:
    return build_job(job_id, owner=owner)


async def test_input_images_have_a_budget_of_their_own_and_free_it_when_their_job_ends(
    build_stores: BuildStores,
) -> None:
    stores = build_stores(JobBounds(max_input_bytes=1500))
    for name in "ab":
        await stores.jobs.submit(build_edit(name), inputs=INPUTS)
    with pytest.raises(StoreFullError) as caught:
        await stores.jobs.submit(build_edit("c"), inputs=INPUTS)
    assert caught.value.retry_seconds == 5
    assert str(caught.value) == (
        "the store for input images is full: of 1.5 KiB for input images of requests under way 1.2 KiB are taken, and "
        "this request's take 600 B; room comes back as requests under way end; try again later, send smaller ones, or "
        "raise gateway.limits.maxInputBytes"
    )
    usage = await stores.images.usage()
    assert (usage.input_bytes, usage.is_full) == (1200, True)
    assert usage.describe() == "of 1.5 KiB for input images of requests under way 1.2 KiB are taken"
    assert (await stores.jobs.submit(build_job("without"))).created, "who brings none is served"
    await succeed(stores.jobs, await claim(stores.jobs), IMAGES)
    assert (await stores.jobs.submit(build_edit("c"), inputs=INPUTS)).created
    for name in "bc":
        await stores.jobs.cancel(name)
    assert (await stores.images.usage()).input_bytes == 0


async def test_input_images_that_never_fit_are_refused_without_a_time_to_come_back(build_stores: BuildStores) -> None:
    stores = build_stores(JobBounds(max_input_bytes=500))
    with pytest.raises(StoreFullError, match=r"input images take 600 B, and those of all .* may take 500 B") as caught:
        await stores.jobs.submit(build_edit("a"), inputs=INPUTS)
    assert caught.value.retry_seconds is None
    assert not (await stores.images.usage()).is_full


async def test_one_customers_input_images_leave_room_for_anothers(build_stores: BuildStores) -> None:
    stores = build_stores(JobBounds(max_input_bytes=6000, is_shared=True))
    for number in range(8):
        await stores.jobs.submit(build_edit(f"a{number}", "a"), inputs=INPUTS)
    with pytest.raises(StoreFullError, match=r"4\.7 KiB of them by this API key; what is left is kept for others"):
        await stores.jobs.submit(build_edit("one too many", "a"), inputs=INPUTS)
    assert (await stores.jobs.submit(build_edit("b", "b"), inputs=INPUTS)).created
    await stores.jobs.cancel("a0")
    await stores.jobs.cancel("a1")
    assert (await stores.jobs.submit(build_edit("again", "a"), inputs=INPUTS)).created


async def test_one_customers_requests_leave_room_for_anothers_images(build_stores: BuildStores) -> None:
    stores = build_stores(JobBounds(max_image_bytes=10 * ONE_JOB, is_shared=True))
    for number in range(8):
        await stores.jobs.submit(build_job(f"a{number}", owner="a"))
    with pytest.raises(StoreFullError, match="of them by this API key; what is left is kept for others"):
        await stores.jobs.submit(build_job("one too many", owner="a"))
    assert (await stores.jobs.submit(build_job("b", owner="b"))).created
    for _ in range(9):
        await succeed(stores.jobs, await claim(stores.jobs), IMAGES)
    assert (await stores.jobs.submit(build_job("again", owner="a"))).created


async def test_without_keys_one_client_may_have_all_the_room(build_stores: BuildStores) -> None:
    stores = build_stores(JobBounds(max_image_bytes=10 * ONE_JOB, max_input_bytes=600))
    for number in range(9):
        await stores.jobs.submit(build_job(f"a{number}"))
    with pytest.raises(StoreFullError):  # room for nine and a half
        await stores.jobs.submit(build_edit("b"), inputs=INPUTS)
