"""A job keeps what its client should know was done otherwise than asked, in all stores."""

from easel_server.generation.job import Job, JobState
from easel_server.generation.request import WebhookTarget
from easel_server.stores.jobs.interface import Jobs
from easel_server.stores.opening import Stores

from tests.inference_server.stores.steps import IMAGES, LONG_SECONDS, claim, job_of
from tests.support.jobs import build_job
from tests.support.stored_images import succeed

OF_REQUEST = ('"weights" are taken as words: 夜明け',)
OF_GENERATION = ("the prompt was cut",)


def warned(job_id: str, **changes: object) -> Job:
    return build_job(job_id).model_copy(update={"request_warnings": OF_REQUEST, **changes})


async def test_warnings_of_request_and_generation_stay_with_the_job(jobs: Jobs) -> None:
    submitted = (await jobs.submit(warned("job"))).job
    assert submitted.warnings == (await job_of(jobs, "job")).warnings == OF_REQUEST
    running = await claim(jobs)
    assert running.job.warnings == OF_REQUEST
    await succeed(jobs, running, IMAGES, warnings=OF_GENERATION)
    ended = await job_of(jobs, "job")
    assert (ended.request_warnings, ended.generation_warnings) == (OF_REQUEST, OF_GENERATION)
    assert ended.warnings == OF_REQUEST + OF_GENERATION


async def test_jobs_that_share_a_run_share_its_warnings_and_keep_their_own(jobs: Jobs) -> None:
    await jobs.submit(build_job("first"), flight_key="the same")
    await jobs.submit(warned("second"), flight_key="the same")
    await succeed(jobs, await claim(jobs), IMAGES, warnings=OF_GENERATION)
    assert (await job_of(jobs, "first")).warnings == OF_GENERATION
    assert (await job_of(jobs, "second")).warnings == OF_REQUEST + OF_GENERATION


async def test_a_job_that_is_answered_from_the_cache_keeps_the_warnings_of_the_one_that_was_generated(
    jobs: Jobs,
) -> None:
    await jobs.submit(warned("answered", generation_warnings=OF_GENERATION), answer=IMAGES)
    job = await job_of(jobs, "answered")
    assert (job.state, job.warnings) == (JobState.SUCCEEDED, OF_REQUEST + OF_GENERATION)


async def test_a_webhook_carries_the_warnings(stores: Stores) -> None:
    await stores.jobs.submit(warned("job", webhook=WebhookTarget(url="http://receiver.example/")))
    await succeed(stores.jobs, await claim(stores.jobs), IMAGES, warnings=OF_GENERATION)
    delivery = await stores.outbox.claim(lease_seconds=LONG_SECONDS, wait_seconds=0)
    assert delivery is not None
    assert delivery.job.warnings == OF_REQUEST + OF_GENERATION
