"""Redis while pods of the version before models and of this one run side by side, as they do in a rolling update."""

import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from easel_contract.server_config import ModelConfig, Priority
from easel_server.generation.job import Job, JobState
from easel_server.generation.models import ModelFacts
from easel_server.stores.facts.model_facts import SharedModelFacts, publish_facts
from easel_server.stores.jobs.interface import Canceled, Claim, JobBounds, Jobs, Joining, QueueTerms, ReapReport
from easel_server.stores.jobs.redis import RedisJobs
from easel_server.stores.opening import Stores, open_stores
from redis.asyncio import Redis

from tests.inference_server.stores.steps import IMAGES, LONG_SECONDS, claim, is_empty, job_of
from tests.support.jobs import build_identity, build_job
from tests.support.redis_server import RedisServer
from tests.support.stored_images import succeed

pytestmark = pytest.mark.redis

# Of documents that processes of the version before shared steps refuse with any other.
PARAMETERS_BEFORE = {
    *("prompt", "negativePrompt", "widthPixels", "heightPixels", "steps", "guidanceScale", "seed", "images"),
    *("imageFormat", "sampler", "task", "imageDigest", "maskDigest", "strength"),
}
IDENTITY_BEFORE = {"name", "key", "source", "revision", "engine", "dtype", "weights", "adapters", "versions"}

# What a reaper of that version does with a run whose worker was lost: it knows of one schedule a priority.
RELEASE = """
local prefix, n = KEYS[1], ARGV[1]
local run = prefix .. 'run:' .. n
local owner, cost_us, token = unpack(redis.call('HMGET', run, 'owner', 'cost_us', 'token'))
redis.call('ZREM', prefix .. 'running', n)
redis.call('HDEL', prefix .. 'claims', token)
redis.call('HINCRBY', prefix .. 'work', 'us:running', -cost_us)
redis.call('HDEL', run, 'token', 'worker', 'started_us', 'rest_us')
redis.call('HSET', run, 'state', 'Waiting', 'steps_done', 0, 'given_back', 1)
redis.call('HINCRBY', prefix .. 'work', 'us:1', cost_us)
redis.call('ZADD', prefix .. 'waiting', 17592186044416 + n, n)
redis.call('ZADD', prefix .. 'turns:1', '-inf', string.rep('0', 16 - #n) .. n .. ':' .. owner)
"""
# How it ends a run that was released: it finds it where it has released it.
END = """
local prefix, n = KEYS[1], ARGV[1]
local run = prefix .. 'run:' .. n
local owner, cost_us, leader = unpack(redis.call('HMGET', run, 'owner', 'cost_us', 'leader'))
redis.call('HINCRBY', prefix .. 'work', 'us:1', -cost_us)
redis.call('ZREM', prefix .. 'waiting', n)
redis.call('ZREM', prefix .. 'turns:1', string.rep('0', 16 - #n) .. n .. ':' .. owner)
redis.call('HSET', prefix .. 'job:' .. leader, 'state', 'Canceled', 'finished_us', 1, 'attempts', 0, 'steps_done', 0,
  'previews', 0)
redis.call('DEL', run)
"""

END_WAITING = """
local prefix, n = KEYS[1], ARGV[1]
local run = prefix .. 'run:' .. n
local owner, cost_us, leader = unpack(redis.call('HMGET', run, 'owner', 'cost_us', 'leader'))
redis.call('HINCRBY', prefix .. 'work', 'us:1', -cost_us)
redis.call('HINCRBY', prefix .. 'work', 'us:1:' .. owner, -cost_us)
redis.call('ZREM', prefix .. 'waiting', n)
redis.call('ZREM', prefix .. 'queue:1:' .. owner, n)
redis.call('ZREM', prefix .. 'turns:1', string.rep('0', 16 - #n) .. n .. ':' .. owner)
redis.call('HSET', prefix .. 'job:' .. leader, 'state', 'Canceled', 'finished_us', 1, 'attempts', 0, 'steps_done', 0,
  'previews', 0)
redis.call('DEL', run)
"""
# How a worker of the version before the order of a target takes an owner's oldest run,
# one that asks for no model.
TAKE = """
local prefix, n = KEYS[1], ARGV[1]
local run = prefix .. 'run:' .. n
local owner, cost_us = unpack(redis.call('HMGET', run, 'owner', 'cost_us'))
redis.call('ZREM', prefix .. 'waiting', n)
redis.call('HINCRBY', prefix .. 'work', 'us:1', -cost_us)
redis.call('HINCRBY', prefix .. 'work', 'us:1:' .. owner, -cost_us)
redis.call('ZREM', prefix .. 'turns:1', string.rep('0', 16 - #n) .. n .. ':' .. owner)
redis.call('ZREM', prefix .. 'queue:1:' .. owner, n)
redis.call('HSET', run, 'state', 'Running', 'attempts', 1, 'worker', 'old', 'started_us', 1, 'steps_done', 0,
  'token', 'old', 'lease_us', 60000000, 'max_attempts', 3, 'rest_us', cost_us)
redis.call('HSET', prefix .. 'claims', 'old', n)
redis.call('ZADD', prefix .. 'running', 1e18, n)
redis.call('HINCRBY', prefix .. 'work', 'us:running', cost_us)
local oldest = redis.call('ZRANGE', prefix .. 'queue:1:' .. owner, 0, 0)[1]
if oldest then
  redis.call('ZADD', prefix .. 'turns:1', cost_us, string.rep('0', 16 - #oldest) .. oldest .. ':' .. owner)
else
  redis.call('HDEL', prefix .. 'work', 'us:1:' .. owner)
end
"""
IN_TIME, LATE = QueueTerms(3600.0, 7200.0), QueueTerms(-1.0, 7200.0)


@pytest.fixture
async def stores(redis_server: RedisServer) -> AsyncIterator[Stores]:
    stores = open_stores(redis_server.url, namespace=uuid.uuid4().hex, service="sd", bounds=JobBounds())
    yield stores
    await stores.close()


@pytest.fixture
def jobs(stores: Stores) -> Jobs:
    return stores.jobs


async def run_script(jobs: Jobs, script: str, number: int) -> None:
    assert isinstance(jobs, RedisJobs)
    await jobs._connection.command("EVAL", script, 1, jobs._connection.key(""), str(number))


async def claim_ids(jobs: Jobs, *models: str) -> list[str]:
    claims = await jobs.claim("w", models, lease_seconds=LONG_SECONDS, wait_seconds=0)
    return [claimed.job.id for claimed in claims]


async def test_a_run_that_an_earlier_pod_released_is_given_to_its_own_models_workers(jobs: Jobs) -> None:
    await jobs.submit(build_job("released", model="a", deadline_seconds=LONG_SECONDS))
    await jobs.submit(build_job("any"))
    assert await claim_ids(jobs, "a") == ["released"]
    await run_script(jobs, RELEASE, 1)
    assert await claim_ids(jobs, "b") == ["any"]
    assert await claim_ids(jobs, "b") == []
    assert await claim_ids(jobs, "a") == ["released"]
    assert (await job_of(jobs, "released")).attempts == 2


async def test_a_run_that_an_earlier_pod_released_can_be_canceled_at_once(jobs: Jobs) -> None:
    await jobs.submit(build_job("released", model="a"))
    assert await claim_ids(jobs, "a") == ["released"]
    await run_script(jobs, RELEASE, 1)
    await jobs.cancel("released")
    assert await claim_ids(jobs, "a") == []
    assert await is_empty(jobs)


async def test_a_released_run_that_an_earlier_pod_ended_holds_up_nobody(jobs: Jobs) -> None:
    await jobs.submit(build_job("ended", model="a"))
    (held,) = await jobs.claim("w", ["a"], lease_seconds=LONG_SECONDS, wait_seconds=0)
    await jobs.submit(build_job("next", model="a"))
    assert await jobs.release(held)
    await run_script(jobs, END, 1)
    assert (await job_of(jobs, "ended")).state == JobState.CANCELED
    assert await claim_ids(jobs, "a") == ["next"]


async def test_what_an_earlier_pod_reads_has_no_field_that_it_refuses(
    stores: Stores, redis_server: RedisServer
) -> None:
    await stores.jobs.submit(build_job("a", model="a"))
    assert isinstance(stores.jobs, RedisJobs)
    async with Redis.from_url(redis_server.url, protocol=2) as client:
        content = await client.hget(stores.jobs._connection.key("job:a"), "content")
    fields_before = {field.alias or name for name, field in Job.model_fields.items()} - {
        "model",
        "generatedBy",
        "images",
        "dataRemoved",
    }
    assert content is not None
    assert set(json.loads(content)) <= fields_before


async def test_an_earlier_pods_reaper_is_left_what_it_can_handle(stores: Stores, redis_server: RedisServer) -> None:
    """It would find no place of a run with a model, and end with an error: see its deadlines, and its schedules."""
    jobs = stores.jobs
    await jobs.submit(build_job("late", model="a", deadline_seconds=-1))
    assert isinstance(jobs, RedisJobs)
    async with Redis.from_url(redis_server.url, protocol=2) as client:
        for key in ("deadlines", "turns:1", "bell"):
            assert await client.exists(jobs._connection.key(key)) == 0, key
    assert await jobs.reap(["a"]) == ReapReport(failed=1)
    await jobs.submit(build_job("a", model="a"))
    assert await claim_ids(jobs, "a") == ["a"]


async def test_jobs_of_the_earlier_version_are_stored_as_ever(stores: Stores, redis_server: RedisServer) -> None:
    """Its pods go on with them; these are the names that must stay."""
    jobs = stores.jobs
    assert isinstance(jobs, RedisJobs)
    prefix = jobs._connection.key("")
    await jobs.submit(build_job("a", owner="ann", deadline_seconds=LONG_SECONDS), flight_key="flight")
    async with Redis.from_url(redis_server.url, protocol=2) as client:
        found = {key.decode().removeprefix(prefix) async for key in client.scan_iter(f"{prefix}*", count=1000)}
    expected = "sequence job:a run:1 waiting work turns:1 queue:1:ann deadlines bell flight:flight leaders"
    # The books of images and the lists of jobs came later, as leaders and wake-ups of those with room did.
    assert found - {"image:sums", "jobs_of:ann", "joining"} == set(expected.split())
    (claimed,) = await jobs.claim("w", ["b"], lease_seconds=LONG_SECONDS, wait_seconds=0)
    assert await succeed(jobs, claimed, IMAGES)


async def test_a_worker_of_the_earlier_version_reads_a_job_whatever_its_client_asked_for(
    jobs: Jobs,
) -> None:
    """It refuses a document with fields that it doesn't know: quality, Close, and what the model's family is."""
    assert isinstance(jobs, RedisJobs)
    for job_id, percent, family in (("asked", 40, "StableDiffusionXL"), ("default", None, "")):
        await jobs.submit(build_job(job_id, image_format="jpeg", quality_percent=percent, family=family))
        key = jobs._connection.key(f"job:{job_id}")
        document = json.loads(await jobs._connection.command("HGET", key, "content"))
        assert set(document["parameters"]) <= PARAMETERS_BEFORE
        stored = (await job_of(jobs, job_id)).parameters
        assert (stored.quality_percent, stored.family) == (percent, family)


async def test_a_gateway_of_the_earlier_version_reads_what_a_worker_of_this_one_has_generated(jobs: Jobs) -> None:
    """Its clients would be refused their images, which are there."""
    assert isinstance(jobs, RedisJobs)
    fields = {"files": "fp16", "refiner": "r", "quantization": "Float8", "step_cache": "DeepCache", "safety": "Blur"}
    fields |= {"vae": "sha256:5cd1", "scheduler": "prediction_type=VPrediction"}
    holds = build_identity().model_copy(update=fields)
    await jobs.submit(build_job("a"))
    assert await succeed(jobs, await claim(jobs), IMAGES, generated_by=holds)
    document = json.loads(await jobs._connection.command("HGET", jobs._connection.key("job:a"), "generated_by"))
    assert set(document) <= IDENTITY_BEFORE
    assert all(isinstance(text, str) for text in document["versions"].values())
    assert (await job_of(jobs, "a")).generated_by == holds


async def test_a_gateway_of_the_earlier_version_reads_the_facts_of_a_worker_of_this_one(stores: Stores) -> None:
    """It would take the sizes and samplers of another model for those of the one that is served."""
    model = ModelConfig(name="m", source="owner/m")
    holds = build_identity(model).model_copy(update={"files": "fp16", "step_cache": "DeepCache", "safety": "Blur"})
    facts = ModelFacts(identity=holds)
    await publish_facts(stores.facts, model, facts)
    assert isinstance(stores.jobs, RedisJobs)
    connection = stores.jobs._connection
    (key,) = await connection.command("KEYS", connection.key("fact:*"))
    assert set(json.loads(await connection.command("GET", key))["identity"]) <= IDENTITY_BEFORE
    assert await SharedModelFacts(stores.facts, lambda: model, None).look() == facts


async def test_a_request_repeated_once_its_models_family_is_known_is_the_same_request(jobs: Jobs) -> None:
    """Its gateway has learned meanwhile what the worker loaded, or was updated."""
    asked = build_job("a")
    await jobs.submit(asked)
    parameters = asked.parameters.model_copy(update={"family": "StableDiffusion"})
    repeated = await jobs.submit(asked.model_copy(update={"parameters": parameters}))
    assert repeated.job.id == "a"


async def test_runs_that_gateways_of_the_version_before_shared_steps_queued_are_claimed_each_by_itself(
    jobs: Jobs,
) -> None:
    for number in (1, 2):
        await jobs.submit(build_job(f"old-{number}"))
        assert isinstance(jobs, RedisJobs)
        run = jobs._connection.key(f"run:{number}")
        await jobs._connection.command("HDEL", run, "size")
        await jobs._connection.command("HSET", run, "batch", "False TextToImage 4 None 7.5 64 64 None")
    await jobs.submit(build_job("new"))
    joining = Joining("64x64", Priority.NORMAL)
    options: dict[str, Any] = {"lease_seconds": LONG_SECONDS, "wait_seconds": 0, "max_jobs": 4, "max_images": 4}
    assert await jobs.claim("w", **options, joining=joining) == ()
    claims = [await jobs.claim("w", **options) for _ in range(3)]
    assert [[claim.job.id for claim in each] for each in claims] == [["old-1"], ["old-2"], ["new"]]


async def test_workers_of_the_version_before_shared_steps_find_no_two_jobs_of_one_batch(jobs: Jobs) -> None:
    """They would generate both with the steps, sampler and guidance of the first."""
    for number in (1, 2):
        await jobs.submit(build_job(f"job-{number}", steps=number))
    assert isinstance(jobs, RedisJobs)
    connection = jobs._connection
    batches = {await connection.command("HGET", connection.key(f"run:{number}"), "batch") for number in (1, 2)}
    assert len(batches) == 2
    assert None not in batches


async def test_what_is_kept_of_long_runs_that_an_earlier_pod_released_or_ended_is_found(jobs: Jobs) -> None:
    """Its scripts know nothing of bounded work: a sum that nobody corrects would hide work from the planner."""
    for name in ("released", "ended"):
        await jobs.submit(build_job(name, gpu_seconds=50), target_seconds=10)
    assert await claim_ids(jobs) == ["released"]
    await run_script(jobs, RELEASE, 1)
    await run_script(jobs, END_WAITING, 2)
    await jobs.submit(build_job("short", gpu_seconds=3), target_seconds=10)
    await jobs.reap()
    depth = await jobs.depth()
    assert (depth.waiting, depth.running) == (2, 0)
    # The released one is all of its work for them, until it is claimed again.
    assert (depth.bounded_waiting_gpu_seconds, depth.bounded_running_gpu_seconds, depth.overrunning) == (53, 0, 0)
    assert await claim_ids(jobs) == ["released"]
    depth = await jobs.depth()
    assert (depth.bounded_waiting_gpu_seconds, depth.bounded_running_gpu_seconds) == (3, 10)


async def test_a_worker_of_the_version_before_takes_the_oldest_and_the_others_keep_their_order(
    jobs: Jobs,
) -> None:
    """It knows of no target: what it takes is taken once, and what is behind is neither lost nor held up."""
    for name, terms in (("late-0", LATE), ("timely-0", IN_TIME), ("late-1", LATE), ("timely-1", IN_TIME)):
        await jobs.submit(build_job(name), terms=terms)
    assert await claim_ids(jobs) == ["timely-0"]
    await run_script(jobs, TAKE, 1)
    assert (await job_of(jobs, "late-0")).state == JobState.RUNNING
    assert [await claim_ids(jobs) for _ in range(3)] == [["timely-1"], ["late-1"], []]
    assert await jobs.finish(Claim(await job_of(jobs, "late-0"), "old", 60.0), Canceled())


async def test_a_worker_of_the_version_before_takes_what_the_others_know_to_be_in_time(jobs: Jobs) -> None:
    await jobs.submit(build_job("late"), terms=LATE)
    for number in range(2):
        await jobs.submit(build_job(f"timely-{number}", height_pixels=128), terms=IN_TIME)
    joining = Joining("64x64", Priority.NORMAL)
    assert await jobs.claim("w", lease_seconds=LONG_SECONDS, wait_seconds=0, joining=joining) == (), "it has looked"
    for number in (1, 2):
        await run_script(jobs, TAKE, number)
    assert [await claim_ids(jobs) for _ in range(2)] == [["timely-1"], []]


async def test_what_gateways_of_the_version_before_queued_is_served_as_it_came(jobs: Jobs) -> None:
    """Among jobs that have a target: it waits behind those that are in time, and overtakes nobody."""
    for name, terms in (("old-0", None), ("late", LATE), ("old-1", None), ("timely", IN_TIME)):
        await jobs.submit(build_job(name), terms=terms)
    assert isinstance(jobs, RedisJobs)
    stored = await jobs._connection.command("HKEYS", jobs._connection.key("run:1"))
    assert not {b"start_by_us", b"first_from_us"} & set(stored)
    assert [(await claim_ids(jobs))[0] for _ in range(4)] == ["old-0", "timely", "late", "old-1"]
