"""A worker that ends in the middle of a job: the next one goes on from there."""

import asyncio

import pytest
from easel_contract.server_config import ModelConfig
from easel_server.engine.loading import load_engine
from easel_server.generation.job import JobState
from easel_server.stores.jobs.interface import Claim, Jobs
from easel_server.worker.job_run import JobRun, find_unfinishable

from tests.inference_server.worker.workers import build_worker, final_job, generation_of, job_in, running
from tests.support.eventually import eventually
from tests.support.fake_engine import FakeEngine, images_of
from tests.support.jobs import build_job
from tests.support.stored_images import read_images
from tests.support.tiny_engine import generate, tiny_engine, tiny_model_directory, tiny_parameters

LONG_STEPS = 1000


async def drain_until_over(engine: FakeEngine, task: asyncio.Task[None]) -> None:
    async def is_over() -> bool:
        engine.allow(1)
        return task.done()

    await eventually(is_over)


async def test_what_does_not_fit_into_the_drain_goes_on_from_its_step_elsewhere(store: Jobs) -> None:
    first = FakeEngine(gated=True)
    worker, _ = build_worker(store, first, drain_seconds=0.05)
    async with running(worker) as task:
        await store.submit(build_job("a", steps=LONG_STEPS))
        first.allow(300)
        await job_in(store, "a", lambda job: job.steps_done == 300)
        worker.drain()
        await drain_until_over(first, task)
    waiting = await store.get("a")
    assert waiting is not None
    assert (waiting.state, waiting.attempts) == (JobState.WAITING, 0)
    assert waiting.steps_done >= 300, "its client sees no step back"
    second = FakeEngine()
    async with running(build_worker(store, second)[0]):
        job = await final_job(store, "a")
    assert second.resumed == {7: waiting.steps_done}
    assert second.steps == LONG_STEPS - waiting.steps_done
    assert (job.state, job.attempts) == (JobState.SUCCEEDED, 1)
    assert await read_images(store, "a") == tuple(images_of(job.parameters))


async def test_a_job_that_would_not_be_done_in_time_is_released_at_once_and_a_shorter_one_ends_here(
    store: Jobs,
) -> None:
    engine = FakeEngine(gated=True)
    worker, _ = build_worker(store, engine, drain_seconds=20.0, max_batch_images=2)
    async with running(worker) as task:
        await store.submit(build_job("long", steps=1_000_000, seed=1))
        await store.submit(build_job("short", steps=6, seed=2))
        engine.allow(3)
        await job_in(store, "short", lambda job: job.steps_done == 3)
        worker.drain()
        engine.allow(3)
        await asyncio.wait_for(task, 15)  # less than the drain may take
    assert (await final_job(store, "short")).state == JobState.SUCCEEDED
    waiting = await store.get("long")
    assert waiting is not None
    assert (waiting.state, waiting.attempts) == (JobState.WAITING, 0)
    assert waiting.steps_done > 0


async def test_the_step_that_is_under_way_when_the_time_is_up_counts(store: Jobs) -> None:
    engine = FakeEngine(gated=True)
    worker, _ = build_worker(store, engine, drain_seconds=0.0)
    async with running(worker) as task:
        await store.submit(build_job("a", steps=LONG_STEPS))
        await generation_of(engine, 7)
        worker.drain()
        await drain_until_over(engine, task)
    waiting = await store.get("a")
    assert waiting is not None
    assert waiting.steps_done == engine.steps == 1


async def test_a_step_that_does_not_end_in_time_leaves_no_checkpoint_and_the_job_begins_anew(store: Jobs) -> None:
    engine = FakeEngine(gated=True)
    worker, _ = build_worker(store, engine, drain_seconds=0.0, step_limit_seconds=0.05)
    async with running(worker) as task:
        await store.submit(build_job("a"))
        await generation_of(engine, 7)
        worker.drain()
        await asyncio.wait_for(task, 10)
    second = FakeEngine()
    async with running(build_worker(store, second)[0]):
        assert (await final_job(store, "a")).attempts == 1
    assert second.resumed == {}
    engine.allow(100)


def build_run(*, steps: int, steps_done: int, seconds: float) -> JobRun:
    run = JobRun(Claim(build_job("a", steps=steps), "token", 10.0))
    run.steps_done = steps_done
    run.last_step_at_seconds = run.began_at_seconds + seconds
    return run


def test_who_will_be_done_in_time_follows_from_how_long_their_steps_took() -> None:
    on_time = build_run(steps=20, steps_done=10, seconds=5.0)
    late = build_run(steps=30, steps_done=10, seconds=5.0)
    unknown = build_run(steps=1000, steps_done=0, seconds=0.0)
    assert find_unfinishable((on_time, late, unknown), 5.0) == [late]
    assert find_unfinishable((on_time, late, unknown), -1.0) == [on_time, late]


def measured_units(run: JobRun) -> float:
    measured = run.measure()
    assert measured is not None
    return measured.work_units


def test_a_resumed_job_is_measured_by_this_workers_part() -> None:
    run = build_run(steps=20, steps_done=20, seconds=5.0)
    whole = measured_units(run)
    run.begun_steps = 15
    assert measured_units(run) == whole / 4
    run.steps_done = 17
    assert run.predict_seconds_left() == 7.5


# With a model


@pytest.mark.torch
@pytest.mark.parametrize("sampler", ["Euler a", "DPM++ 2M"])
async def test_a_models_image_is_the_same_whether_its_worker_was_drained_on_the_way(store: Jobs, sampler: str) -> None:
    model = ModelConfig(name="sd15", source=str(tiny_model_directory()))
    parameters = tiny_parameters(steps=60, sampler=sampler, seed=3)
    [[expected]] = generate(tiny_engine(), parameters)
    other_engine = load_engine(model, hub_token=None)
    first, _ = build_worker(store, tiny_engine(), drain_seconds=0.0)
    await store.submit(build_job("a").model_copy(update={"parameters": parameters}))
    async with running(first) as task:
        await job_in(store, "a", lambda job: job.steps_done > 2)
        first.drain()
        await asyncio.wait_for(task, 20)
    waiting = await store.get("a")
    assert waiting is not None
    assert waiting.state == JobState.WAITING
    assert 2 < waiting.steps_done < parameters.steps
    async with running(build_worker(store, other_engine)[0]):
        await job_in(store, "a", lambda job: job.steps_done >= waiting.steps_done)
        assert (await final_job(store, "a")).state == JobState.SUCCEEDED
    assert await read_images(store, "a") == (expected,)
