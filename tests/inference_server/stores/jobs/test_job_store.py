"""What the job stores promise of a job from submit to its end; every test runs on all, Redis being a real server."""

import asyncio
from collections import Counter
from datetime import timedelta

import pytest
from easel_contract.server_config import Priority
from easel_server.generation.job import Job, JobState
from easel_server.generation.request import WebhookTarget
from easel_server.stores.jobs.interface import (
    Failed,
    HeartbeatReply,
    JobBounds,
    JobConflictError,
    Jobs,
    QueueFullError,
)
from easel_server.stores.jobs.redis import RedisJobs
from easel_server.stores.opening import Stores

from tests.inference_server.stores.conftest import BuildStores
from tests.inference_server.stores.steps import (
    IMAGES,
    LONG_SECONDS,
    SHORT_SECONDS,
    claim,
    is_empty,
    job_of,
    reap_something,
)
from tests.support.eventually import eventually
from tests.support.jobs import build_job
from tests.support.stored_images import read_images, succeed

# Submit


async def test_a_submitted_job_is_stored_as_it_was_given(jobs: Jobs) -> None:
    job = build_job("a", deadline_seconds=LONG_SECONDS, webhook=WebhookTarget(url="http://x/", events=("start",)))
    submission = await jobs.submit(job)
    assert submission.created
    stored = submission.job
    assert stored == job.model_copy(update={"submitted_at": stored.submitted_at, "deadline_at": stored.deadline_at})
    assert stored.deadline_at is not None
    assert stored.deadline_at - stored.submitted_at == timedelta(seconds=LONG_SECONDS)
    assert await jobs.get("a") == stored


async def test_what_a_job_is_called_and_where_it_came_by_is_kept_to_its_end(jobs: Jobs) -> None:
    origin = {"client_id": "order-17", "base_url": "http://images.example.com"}
    await jobs.submit(build_job("a").model_copy(update=origin))
    for job in ((await claim(jobs)).job, await job_of(jobs, "a")):
        assert (job.client_id, job.base_url) == tuple(origin.values())


async def test_a_submitters_clock_that_is_wrong_does_not_matter(jobs: Jobs) -> None:
    job = build_job("a", deadline_seconds=LONG_SECONDS)
    ahead = timedelta(hours=5)
    assert job.deadline_at is not None
    skewed = job.model_copy(update={"submitted_at": job.submitted_at - ahead, "deadline_at": job.deadline_at - ahead})
    stored = (await jobs.submit(skewed)).job
    assert abs(stored.submitted_at - job.submitted_at) < timedelta(seconds=30)
    assert (await claim(jobs)).job.id == "a"


async def test_submitting_the_same_job_again_returns_the_stored_one(jobs: Jobs) -> None:
    first = await jobs.submit(build_job("a"))
    running = await claim(jobs)
    second = await jobs.submit(build_job("a"))
    assert not second.created
    assert second.job == running.job
    assert second.job.submitted_at == first.job.submitted_at
    assert (await jobs.depth()).waiting == 0


@pytest.mark.parametrize(
    "other",
    [
        build_job("a", prompt="a cat"),
        build_job("a", owner="somebody-else"),
        build_job("a", webhook=WebhookTarget(url="http://x/")),
    ],
    ids=["other parameters", "another owner", "another webhook"],
)
async def test_another_job_under_a_known_id_is_refused(jobs: Jobs, other: Job) -> None:
    stored = (await jobs.submit(build_job("a"))).job
    with pytest.raises(JobConflictError, match="job a exists already"):
        await jobs.submit(other)
    assert await jobs.get("a") == stored


async def test_a_full_queue_refuses_and_says_how_full_it_is(build_stores: BuildStores) -> None:
    jobs = build_stores(JobBounds(max_queue_depth=2)).jobs
    await jobs.submit(build_job("a"))
    await jobs.submit(build_job("b"))
    with pytest.raises(QueueFullError) as caught:
        await jobs.submit(build_job("c"))
    assert (caught.value.depth, caught.value.bound) == (2, 2)
    assert await jobs.get("c") is None
    assert not (await jobs.submit(build_job("b"))).created  # known jobs aren't refused
    assert (await jobs.submit(build_job("d"), answer=IMAGES)).created  # nor those that needn't queue
    await claim(jobs)
    assert (await jobs.submit(build_job("c"))).created


async def test_customers_have_shares_of_the_queue_and_each_a_place_at_least(build_stores: BuildStores) -> None:
    jobs = build_stores(JobBounds(max_queue_depth=10, is_shared=True)).jobs
    for number in range(8):
        await jobs.submit(build_job(f"a{number}", owner="a", priority=Priority.LOW if number % 2 else Priority.HIGH))
    with pytest.raises(QueueFullError) as caught:
        await jobs.submit(build_job("one too many", owner="a"))
    assert (caught.value.depth, caught.value.held) == (8, 8)
    for number in range(5):
        assert (await jobs.submit(build_job(f"n{number}", owner=f"n{number}"))).created
    with pytest.raises(QueueFullError):
        await jobs.submit(build_job("n0 again", owner="n0"))
    for _ in range(8):
        await claim(jobs)
    assert (await jobs.submit(build_job("n0 again", owner="n0"))).created


async def test_a_job_that_is_answered_at_once_is_never_queued(stores: Stores) -> None:
    jobs = stores.jobs
    webhook = WebhookTarget(url="http://x/")
    submission = await jobs.submit(build_job("a", webhook=webhook), answer=IMAGES, inputs={"digest": b"input"})
    assert submission.job.state == JobState.SUCCEEDED
    assert submission.job.steps_done == submission.job.parameters.steps
    assert await read_images(jobs, "a") == IMAGES
    assert await jobs.claim("w", lease_seconds=1, wait_seconds=0) == ()
    delivery = await stores.outbox.claim(lease_seconds=LONG_SECONDS, wait_seconds=0)
    assert delivery is not None
    assert delivery.job == submission.job


async def test_an_unknown_job_is_none_everywhere(jobs: Jobs) -> None:
    assert await jobs.get("a") is None
    assert await jobs.cancel("a") is None
    assert await jobs.wait("a", 0.01) is None
    assert await read_images(jobs, "a") == ()


# Claim


async def test_jobs_are_claimed_in_the_order_of_their_submission(jobs: Jobs) -> None:
    for number in range(12):
        await jobs.submit(build_job(f"job-{number}"))
    claimed = [(await claim(jobs)).job.id for _ in range(12)]
    assert claimed == [f"job-{number}" for number in range(12)]


async def test_a_claimed_job_says_who_runs_it_and_since_when(jobs: Jobs) -> None:
    submitted = (await jobs.submit(build_job("a"))).job
    claimed = await claim(jobs, worker="worker-7")
    assert claimed.job.state == JobState.RUNNING
    assert claimed.job.worker == "worker-7"
    assert claimed.job.attempts == 1
    assert claimed.job.started_at is not None
    assert claimed.job.started_at >= submitted.submitted_at
    assert await jobs.get("a") == claimed.job
    depth = await jobs.depth()
    assert (depth.waiting, depth.running, depth.oldest_waiting_age_seconds) == (0, 1, 0)


async def test_a_claim_waits_for_a_job_to_come(jobs: Jobs) -> None:
    claiming = asyncio.create_task(jobs.claim("w", lease_seconds=LONG_SECONDS, wait_seconds=20))
    await asyncio.sleep(0)
    await jobs.submit(build_job("a"))
    (claimed,) = await asyncio.wait_for(claiming, 5)
    assert claimed.job.id == "a"


async def test_a_claim_that_waited_in_vain_is_none(jobs: Jobs) -> None:
    assert await jobs.claim("w", lease_seconds=1, wait_seconds=0.05) == ()


async def test_two_hundred_jobs_and_four_claimers_make_two_hundred_completions(build_stores: BuildStores) -> None:
    gateway = build_stores().jobs
    workers = [gateway] * 4
    if isinstance(gateway, RedisJobs):
        workers = [build_stores().jobs for _ in range(4)]
    completions: Counter[str] = Counter()

    async def work(jobs: Jobs, name: str) -> None:
        while sum(completions.values()) < 200:
            for claimed in await jobs.claim(name, lease_seconds=LONG_SECONDS, wait_seconds=0.1):
                assert await jobs.heartbeat(claimed, 1) == HeartbeatReply.CONTINUE
                assert await succeed(jobs, claimed, (claimed.job.id.encode(),))
                completions[claimed.job.id] += 1

    async def submit() -> None:
        for number in range(200):
            await gateway.submit(build_job(f"job-{number}"))

    await asyncio.gather(submit(), *(work(jobs, f"worker-{index}") for index, jobs in enumerate(workers)))
    assert completions == Counter(f"job-{number}" for number in range(200))
    assert await read_images(gateway, "job-123") == (b"job-123",)
    assert await is_empty(gateway)


# Finish


async def test_a_succeeded_job_has_its_images_and_all_its_steps(jobs: Jobs) -> None:
    await jobs.submit(build_job("a", images=2))
    claimed = await claim(jobs)
    assert await read_images(jobs, "a") == ()
    assert await succeed(jobs, claimed, IMAGES)
    job = await job_of(jobs, "a")
    assert job.state == JobState.SUCCEEDED
    assert job.steps_done == job.parameters.steps
    assert job.finished_at is not None
    assert job.started_at is not None
    assert job.submitted_at <= job.started_at <= job.finished_at
    assert await read_images(jobs, "a") == IMAGES
    assert await is_empty(jobs)


async def test_a_failed_job_says_why_and_is_not_tried_again(jobs: Jobs) -> None:
    await jobs.submit(build_job("a"))
    assert await jobs.finish(await claim(jobs), Failed("the prompt is too long"))
    job = await job_of(jobs, "a")
    assert (job.state, job.error) == (JobState.FAILED, "the prompt is too long")
    assert await jobs.claim("w", lease_seconds=1, wait_seconds=0) == ()


async def test_a_repeated_finish_is_accepted_and_changes_nothing(jobs: Jobs) -> None:
    await jobs.submit(build_job("a"))
    claimed = await claim(jobs)
    assert await succeed(jobs, claimed, IMAGES)
    job = await jobs.get("a")
    assert await succeed(jobs, claimed, IMAGES)
    assert await read_images(jobs, "a") == IMAGES
    assert await jobs.get("a") == job


@pytest.mark.parametrize("percent", [None, 0, 40])
async def test_a_job_keeps_the_quality_that_was_asked_for(jobs: Jobs, percent: int | None) -> None:
    asked = build_job("a", image_format="jpeg", quality_percent=percent)
    await jobs.submit(asked)
    assert (await claim(jobs)).job.parameters == asked.parameters
    assert (await job_of(jobs, "a")).parameters == asked.parameters


async def test_a_lost_claim_can_neither_finish_nor_release_nor_heartbeat(jobs: Jobs) -> None:
    await jobs.submit(build_job("a"))
    lost = await claim(jobs, "slow", lease_seconds=SHORT_SECONDS)
    assert (await reap_something(jobs)).requeued == 1
    current = await claim(jobs, "quick")
    assert await jobs.heartbeat(lost, 2) == HeartbeatReply.LOST
    assert not await succeed(jobs, lost, (b"stale",))
    assert not await jobs.release(lost)
    assert await jobs.get("a") == current.job
    assert await succeed(jobs, current, (b"current",))
    assert not await jobs.finish(lost, Failed("stale"))
    assert await read_images(jobs, "a") == (b"current",)
    assert (await job_of(jobs, "a")).worker == "quick"


async def test_results_are_forgotten_after_their_time(build_stores: BuildStores) -> None:
    jobs = build_stores(JobBounds(result_ttl_seconds=0.05)).jobs
    await jobs.submit(build_job("a"))
    await jobs.submit(build_job("waits"))
    await jobs.submit(build_job("runs"))
    await succeed(jobs, await claim(jobs), IMAGES)
    await jobs.cancel("runs")
    running = await claim(jobs)

    async def is_forgotten() -> bool:
        return await jobs.get("a") is None and await jobs.get("runs") is None

    assert await eventually(is_forgotten)
    assert await read_images(jobs, "a") == ()
    assert (await job_of(jobs, running.job.id)).state == JobState.RUNNING  # unfinished jobs never expire
    assert (await jobs.submit(build_job("a", prompt="another"))).created  # the id is free again


# Wait


async def test_waiting_clients_hear_of_the_end(build_stores: BuildStores) -> None:
    gateway = build_stores().jobs
    await gateway.submit(build_job("a"))
    await gateway.submit(build_job("b"))
    waits = [asyncio.create_task(gateway.wait(name, 30)) for name in ("a", "a", "b")]
    for _ in range(2):
        await succeed(gateway, await claim(gateway), IMAGES)
    done = await asyncio.wait_for(asyncio.gather(*waits), 10)
    assert [(job.id, job.state) for job in done if job] == [("a", JobState.SUCCEEDED)] * 2 + [("b", JobState.SUCCEEDED)]


async def test_a_wait_that_times_out_returns_the_job_as_it_is(jobs: Jobs) -> None:
    await jobs.submit(build_job("a"))
    job = await jobs.wait("a", 0.05)
    assert job is not None
    assert job.state == JobState.WAITING


async def test_waiting_for_a_final_job_returns_at_once(jobs: Jobs) -> None:
    await jobs.submit(build_job("a"))
    await jobs.cancel("a")
    job = await asyncio.wait_for(jobs.wait("a", 60), 5)
    assert job is not None
    assert job.state == JobState.CANCELED


# The server


async def test_ping_returns(stores: Stores) -> None:
    await stores.ping()
