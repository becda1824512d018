"""A broken engine takes its worker out, and costs no job; a job that breaks engines ends after bounded attempts."""

import asyncio
import threading

import pytest
from easel_contract import metrics as contract
from easel_server.engine.interface import GenerationError, NonFiniteError
from easel_server.generation.job import JobState
from easel_server.stores.jobs.interface import Jobs
from easel_server.worker.engine_errors import is_engine_error, is_fatal_error
from easel_server.worker.engine_health import MAX_FAILED_JOBS, EngineFailedError, EngineHealth
from easel_server.worker.worker import Worker

from tests.inference_server.worker.workers import build_worker, final_job, job_in, running
from tests.support.eventually import eventually
from tests.support.fake_engine import FakeEngine
from tests.support.jobs import build_job

ASSERT = "CUDA error: device-side assert triggered"


def broken_after(calls: int) -> FakeEngine:
    engine = FakeEngine()
    engine.breaks_after = calls
    return engine


async def failure_of(worker: Worker) -> str:
    """Run it to its end, which its engine brings about."""
    with pytest.raises(EngineFailedError) as caught:
        await asyncio.wait_for(worker.run(), 20)
    return str(caught.value)


async def test_of_a_hundred_jobs_none_fails_when_one_of_two_engines_breaks_at_its_fifth(store: Jobs) -> None:
    breaking, metrics = build_worker(store, broken_after(4))
    well, _ = build_worker(store, FakeEngine())
    for number in range(100):
        await store.submit(build_job(f"job-{number}", seed=number))
    ending = asyncio.create_task(failure_of(breaking))
    async with running(well):
        jobs = [await final_job(store, f"job-{number}") for number in range(100)]
    assert [job.state for job in jobs] == [JobState.SUCCEEDED] * 100
    assert "RuntimeError: the engine is broken" in await ending
    assert (await store.depth()).engine_failures == 1
    page = (await metrics.render(store)).decode()
    assert f"{contract.ENGINE_FAILURES_TOTAL} 1.0" in page


async def test_jobs_outlive_the_only_worker_and_are_done_by_the_next(store: Jobs) -> None:
    for number in range(10):
        await store.submit(build_job(f"job-{number}", seed=number))
    worker, _ = build_worker(store, broken_after(4))
    await failure_of(worker)
    waiting = await store.get("job-4")
    assert waiting is not None
    assert (waiting.state, waiting.attempts) == (JobState.WAITING, 1)
    async with running(build_worker(store, FakeEngine())[0]):
        jobs = [await final_job(store, f"job-{number}") for number in range(10)]
    assert [(job.state, job.attempts) for job in jobs] == [
        (JobState.SUCCEEDED, 2 if job.id == "job-4" else 1) for job in jobs
    ]


async def test_an_error_that_a_gpu_does_not_recover_from_needs_no_trial_and_no_second_try(store: Jobs) -> None:
    for number in range(4):
        await store.submit(build_job(f"job-{number}", seed=number))
    engine = FakeEngine()
    engine.breaking_seeds = {2: ASSERT}
    worker, _ = build_worker(store, engine, max_batch_images=4)
    assert await failure_of(worker) == f"the engine failed with RuntimeError: {ASSERT}"
    assert len(engine.batches) == 1
    assert (await store.depth()).waiting == 4


async def test_jobs_that_did_not_fail_when_their_engine_broke_are_released_uncounted(
    store: Jobs,
) -> None:
    for name, seed in (("failing", 10), ("innocent", 20)):
        await store.submit(build_job(name, seed=seed))
    engine = FakeEngine()
    engine.unlucky_seeds = {10: 1, 0: 1}  # the trial's seed is 0
    worker, _ = build_worker(store, engine, max_batch_images=4)
    assert "and on a trial with KeyError" in await failure_of(worker)
    jobs = [await store.get(name) for name in ("failing", "innocent")]
    assert [(job.state, job.attempts) for job in jobs if job] == [(JobState.WAITING, 1), (JobState.WAITING, 0)]


async def test_a_step_that_raises_costs_each_job_in_it_an_attempt_and_the_worker_goes_on(
    store: Jobs,
) -> None:
    for number in range(2):
        await store.submit(build_job(f"job-{number}", seed=number + 1))
    engine = FakeEngine()
    engine.step_errors = [ValueError("a bug of ours")]
    worker, _ = build_worker(store, engine, max_batch_images=4)
    async with running(worker):
        jobs = [await final_job(store, f"job-{number}") for number in range(2)]
    assert [(job.state, job.attempts) for job in jobs] == [(JobState.SUCCEEDED, 2)] * 2


async def test_a_job_that_breaks_engine_after_engine_fails_with_the_reason_and_the_others_do_not(store: Jobs) -> None:
    await store.submit(build_job("bad", seed=1))
    await store.submit(build_job("good", seed=2))
    for _ in range(3):
        engine = FakeEngine()
        engine.breaking_seeds = {1: ASSERT}
        await failure_of(build_worker(store, engine)[0])
    bad = await final_job(store, "bad")
    assert (bad.state, bad.attempts) == (JobState.FAILED, 3)
    assert bad.error is not None
    assert bad.error.startswith(f"the engine failed with RuntimeError: {ASSERT}; ")
    async with running(build_worker(store, FakeEngine())[0]):
        assert (await final_job(store, "good")).state == JobState.SUCCEEDED


async def test_a_request_that_fails_by_itself_ends_and_its_worker_goes_on(store: Jobs) -> None:
    engine = FakeEngine()
    engine.unlucky_seeds = {1: 100}
    worker, _ = build_worker(store, engine)
    async with running(worker):
        await store.submit(build_job("bad", seed=1))
        bad = await final_job(store, "bad")
        await store.submit(build_job("good", seed=2))
        assert (await final_job(store, "good")).state == JobState.SUCCEEDED
    assert (bad.state, bad.attempts) == (JobState.FAILED, 3)
    assert (bad.error or "").startswith("the engine failed with KeyError: 'scheduler'; no further attempt is made")


async def test_what_a_request_is_to_blame_for_never_takes_a_worker_out(store: Jobs) -> None:
    errors = [GenerationError("no such scheduler"), MemoryError()] * MAX_FAILED_JOBS
    pending = iter(errors)
    worker, _ = build_worker(store, FakeEngine(error=lambda: next(pending)))
    async with running(worker):
        for number in range(len(errors)):
            await store.submit(build_job(f"job-{number}"))
        jobs = [await final_job(store, f"job-{number}") for number in range(len(errors))]
    assert [(job.state, job.attempts) for job in jobs] == [(JobState.FAILED, 1)] * len(errors)
    assert (await store.depth()).engine_failures == 0


async def test_an_engine_that_fails_all_jobs_and_passes_trials_ends_too(store: Jobs) -> None:
    engine = FakeEngine()
    engine.unlucky_seeds = dict.fromkeys(range(1, 100), 100)
    for number in range(1, 20):
        await store.submit(build_job(f"job-{number}", seed=number))
    worker, _ = build_worker(store, engine)
    assert f"failed on {MAX_FAILED_JOBS} jobs in a row" in await failure_of(worker)


async def test_a_trial_whose_single_step_gives_no_image_is_passed(store: Jobs) -> None:
    errors = iter([RuntimeError("a kernel gave nonsense"), NonFiniteError("one step is too few")])
    engine = FakeEngine(error=lambda: next(errors, GenerationError("no such scheduler")))
    worker, _ = build_worker(store, engine)
    async with running(worker):
        await store.submit(build_job("a"))
        job = await final_job(store, "a")
    assert (job.state, job.error, job.attempts) == (JobState.FAILED, "no such scheduler", 2)


async def test_a_trial_that_does_not_end_is_a_failure(store: Jobs) -> None:
    hung = threading.Event()

    def hang() -> Exception:
        if engine.batches[-1:] == [[0]]:  # the trial's seed
            hung.wait(20)
        return RuntimeError("a kernel gave nonsense")

    engine = FakeEngine(error=hang)
    worker, _ = build_worker(store, engine)
    worker._health = EngineHealth(engine, worker._thread, trial_seconds=0.05)
    await store.submit(build_job("a", seed=7))
    assert "took more than 0.05 s for a trial" in await failure_of(worker)
    hung.set()
    assert (await job_in(store, "a", lambda job: job.attempts == 1)).state == JobState.WAITING


async def test_a_cancel_is_obeyed_though_the_engine_failed(store: Jobs) -> None:
    engine = FakeEngine(gated=True)
    engine.breaks_after = 0
    worker, _ = build_worker(store, engine)
    ending = asyncio.create_task(failure_of(worker))
    await store.submit(build_job("a"))

    async def has_begun() -> bool:
        return bool(engine.started)

    await eventually(has_begun)
    await store.cancel("a")
    engine.allow(10)
    assert (await final_job(store, "a")).state == JobState.CANCELED
    await ending


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: unspecified launch failure",
        "CUDA error: uncorrectable ECC error encountered",
        "HIP error: device-side assertion `t' failed: device-side assert",
        "No CUDA-capable device is detected",
    ],
)
def test_a_gpus_last_words_are_known(message: str) -> None:
    assert is_fatal_error(RuntimeError(message))
    assert not is_fatal_error(GenerationError(message)), "a request's fault, whatever it says"


def test_memory_that_ran_out_is_no_error_of_the_engine() -> None:
    assert not is_engine_error(MemoryError())
    assert is_engine_error(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
