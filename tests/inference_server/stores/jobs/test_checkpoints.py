"""What a worker that ends got to goes on to the next one, in all stores."""

from easel_server.generation.job import JobState
from easel_server.stores.jobs.interface import MAX_CHECKPOINT_BYTES, Jobs

from tests.inference_server.stores.steps import SHORT_SECONDS, claim, is_empty, job_of, reap_something, run_next
from tests.support.jobs import build_job
from tests.support.stored_images import succeed

LATENTS = b"\x00latents\xff" * 1000


async def test_a_released_jobs_checkpoint_comes_with_its_next_claim_and_its_progress_stays(jobs: Jobs) -> None:
    await jobs.submit(build_job("a"))
    assert await jobs.release(await claim(jobs), checkpoint=LATENTS, steps_done=3)
    waiting = await job_of(jobs, "a")
    assert (waiting.state, waiting.steps_done, waiting.attempts) == (JobState.WAITING, 3, 0)
    again = await claim(jobs)
    assert (again.checkpoint, again.job.steps_done, again.job.attempts) == (LATENTS, 3, 1)
    assert await succeed(jobs, again, (b"image",))
    assert await is_empty(jobs)


async def test_a_job_without_one_begins_anew(jobs: Jobs) -> None:
    await jobs.submit(build_job("a"))
    held = await claim(jobs)
    await jobs.heartbeat(held, 3)
    await jobs.release(held)
    assert (await job_of(jobs, "a")).steps_done == 0
    assert (await claim(jobs)).checkpoint is None


async def test_a_checkpoint_is_bounded(jobs: Jobs) -> None:
    await jobs.submit(build_job("a"))
    assert await jobs.release(await claim(jobs), checkpoint=bytes(MAX_CHECKPOINT_BYTES + 1), steps_done=3)
    again = await claim(jobs)
    assert (again.checkpoint, again.job.steps_done) == (None, 0)


async def test_a_checkpoint_outlives_a_worker_that_is_lost_and_not_one_that_failed_from_it(jobs: Jobs) -> None:
    await jobs.submit(build_job("a"))
    await jobs.release(await claim(jobs), checkpoint=LATENTS, steps_done=3)
    await claim(jobs, lease_seconds=SHORT_SECONDS)
    await reap_something(jobs)
    again = await claim(jobs)
    assert again.checkpoint == LATENTS
    assert await jobs.retry(again, "the engine failed") == JobState.WAITING
    last = await claim(jobs)
    assert (last.checkpoint, last.job.steps_done) == (None, 0)


async def test_another_job_never_gets_it(jobs: Jobs) -> None:
    await jobs.submit(build_job("a"))
    await jobs.release(await claim(jobs), checkpoint=LATENTS, steps_done=3)
    await run_next(jobs)
    await jobs.submit(build_job("b"))
    assert (await claim(jobs)).checkpoint is None
