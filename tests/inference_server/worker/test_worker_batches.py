"""Jobs that share steps: each has its own beginning and end, whatever becomes of the others."""

import asyncio
import threading
from dataclasses import replace
from typing import Any

import pytest
from easel_contract import metrics as contract
from easel_server.generation.cost import Measurement, work_units
from easel_server.generation.job import Job, JobState
from easel_server.stores.jobs.interface import Claim, HeartbeatReply, JobBounds, Jobs, Outcome
from easel_server.worker.job_run import choose_preview_steps

from tests.inference_server.stores.conftest import BuildStores
from tests.inference_server.worker.workers import STEPS, build_worker, final_job, generation_of, job_in, running
from tests.support.eventually import eventually
from tests.support.fake_engine import DESCRIPTION, FakeEngine, images_of, previews_of
from tests.support.jobs import build_job
from tests.support.stored_images import read_images

BATCH = 8


class Between:
    """A job store in front of another, whose replies and finishes a test decides."""

    def __init__(self, store: Jobs) -> None:
        self._broker = store
        self.replies: dict[str, HeartbeatReply] = {}
        self.measured: dict[str, Measurement] = {}
        self.claims = 0
        self.may_finish = asyncio.Event()
        self.may_finish.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    async def claim(self, *arguments: Any, **options: Any) -> tuple[Claim, ...]:
        self.claims += 1
        return await self._broker.claim(*arguments, **options)

    async def heartbeat(self, claim: Claim, steps_done: int, **rest: Any) -> HeartbeatReply:
        reply = await self._broker.heartbeat(claim, steps_done, **rest)
        return self.replies.get(claim.job.id, reply)

    async def finish(
        self, claim: Claim, outcome: Outcome, measured: Measurement | None = None, *rest: Any, **options: Any
    ) -> bool:
        if measured is not None:
            self.measured[claim.job.id] = measured
        await self.may_finish.wait()
        return await self._broker.finish(claim, outcome, measured, *rest, **options)


async def submit(store: Jobs, *seeds: int, **parameters: Any) -> None:
    for seed in seeds:
        await store.submit(build_job(f"job-{seed}", seed=seed, **parameters))


async def all_in(store: Jobs, state: JobState, *seeds: int) -> list[Job]:
    return [await job_in(store, f"job-{seed}", lambda job: job.state == state) for seed in seeds]


async def test_jobs_of_one_size_share_steps_whatever_else_they_ask_for_and_leave_at_their_own_last(store: Jobs) -> None:
    await submit(store, 10, 20)
    await store.submit(build_job("job-30", seed=30, steps=STEPS + 2, sampler="Euler a", negative_prompt="fur"))
    await store.submit(build_job("other", seed=40, width_pixels=128))
    engine = FakeEngine()
    worker, metrics = build_worker(store, engine, max_batch_images=BATCH)
    async with running(worker):
        jobs = [await final_job(store, job_id) for job_id in ("job-10", "job-20", "job-30", "other")]
    assert engine.batches == [[10, 20, 30], [30], [40]]
    assert engine.steps == STEPS + 2 + STEPS
    for job in jobs:
        assert job.state == JobState.SUCCEEDED
        assert await read_images(store, job.id) == tuple(images_of(job.parameters))
    sample = metrics.registry.get_sample_value
    assert sample(contract.BATCH_IMAGES + "_sum") == 3 * STEPS + 2 + STEPS
    assert sample(contract.BATCH_IMAGES + "_count") == engine.steps
    assert sample(contract.JOBS_TOTAL, {"outcome": "Succeeded"}) == 4


async def test_a_batch_has_no_more_images_than_allowed(store: Jobs) -> None:
    await submit(store, 10, 20, 30, images=2)
    engine = FakeEngine()
    worker, _ = build_worker(store, engine, max_batch_images=5)
    async with running(worker):
        for seed in (10, 20, 30):
            await final_job(store, f"job-{seed}")
    assert engine.batches == [[10, 20], [30]]


async def test_what_a_batch_took_is_shared_by_work(store: Jobs) -> None:
    between = Between(store)
    engine = FakeEngine(gated=True)
    await submit(store, 10)
    await submit(store, 20, images=3)
    worker, metrics = build_worker(between, engine, max_batch_images=BATCH)
    async with running(worker):

        async def was_generating_for_long() -> bool:
            return metrics.generating.seconds > 0.2

        await eventually(was_generating_for_long)
        engine.allow(STEPS)
        jobs = await all_in(store, JobState.SUCCEEDED, 10, 20)
    for job in jobs:
        assert between.measured[job.id].work_units == work_units(job.parameters)
    small, large = (between.measured[job.id].gpu_seconds for job in jobs)
    assert large == pytest.approx(3 * small, rel=0.05)  # beginning takes each as long
    # The rest is the way to the engine's thread and back.
    assert metrics.generating.seconds / 2 < small + large <= metrics.generating.seconds
    assert (await store.cost_sums()).y == pytest.approx(small + large, rel=0.05)  # older jobs count a little less


async def test_cancelling_one_leaves_the_others_alone_and_is_seen_before_they_end(store: Jobs) -> None:
    engine = FakeEngine(gated=True)
    await submit(store, 10, 20, 30)
    worker, _ = build_worker(store, engine, max_batch_images=BATCH)
    async with running(worker):
        engine.allow(1)
        await generation_of(engine, 30)
        await store.cancel("job-20")
        assert (await final_job(store, "job-20")).state == JobState.CANCELED, "while the batch stands still"
        engine.allow(STEPS)
        await all_in(store, JobState.SUCCEEDED, 10, 30)
    assert engine.batches == [[10, 20, 30], [10, 30]]
    assert engine.stopped == [20]
    assert await read_images(store, "job-20") == ()


async def test_a_batch_ends_at_the_next_step_when_nobody_wants_it(store: Jobs) -> None:
    engine = FakeEngine(gated=True)
    await submit(store, 10, 20, steps=1000)
    worker, _ = build_worker(store, engine, max_batch_images=BATCH)
    async with running(worker):
        await generation_of(engine, 20)
        for seed in (10, 20):
            await store.cancel(f"job-{seed}")
        await all_in(store, JobState.CANCELED, 10, 20)
        engine.allow(1)

        async def has_stopped() -> bool:
            return engine.stopped == [10, 20]

        await eventually(has_stopped)
    assert engine.steps == 1


async def test_a_lost_claim_and_a_passed_deadline_are_one_jobs_own(store: Jobs) -> None:
    between = Between(store)
    between.replies = {"job-10": HeartbeatReply.LOST, "job-20": HeartbeatReply.DEADLINE_PASSED}
    engine = FakeEngine(gated=True)
    await submit(store, 10, 20, 30)
    worker, metrics = build_worker(between, engine, max_batch_images=BATCH)
    async with running(worker):
        await generation_of(engine, 30)
        late = await final_job(store, "job-20")
        engine.allow(STEPS)
        await all_in(store, JobState.SUCCEEDED, 30)
        lost = await store.get("job-10")
    assert (late.state, "deadline passed" in (late.error or "")) == (JobState.FAILED, True)
    assert lost is not None
    assert lost.state == JobState.RUNNING, "its new holder reports it"
    assert metrics.registry.get_sample_value(contract.JOBS_TOTAL, {"outcome": "Succeeded"}) == 1


async def test_a_request_that_cannot_be_served_fails_alone(store: Jobs) -> None:
    engine = FakeEngine()
    engine.refused_seeds = {20}
    await submit(store, 10, 20, 30)
    worker, _ = build_worker(store, engine, max_batch_images=BATCH)
    async with running(worker):
        await all_in(store, JobState.SUCCEEDED, 10, 30)
        failed = await final_job(store, "job-20")
    assert (failed.state, failed.error) == (JobState.FAILED, "seed 20 is refused")
    assert engine.batches == [[10, 20, 30], [10, 30]]


async def test_memory_that_runs_out_for_one_job_is_its_own_failure(store: Jobs) -> None:
    engine = FakeEngine()
    engine.failing_seeds = {20: MemoryError()}
    await submit(store, 10, 20)
    worker, _ = build_worker(store, engine, max_batch_images=BATCH)
    async with running(worker):
        [job] = await all_in(store, JobState.SUCCEEDED, 10)
        failed = await final_job(store, "job-20")
    assert (job.attempts, failed.attempts) == (1, 1)
    assert "ran out of memory" in (failed.error or "")


async def test_a_drain_releases_the_whole_batch(store: Jobs) -> None:
    engine = FakeEngine(gated=True)
    await submit(store, 10, 20, steps=1000)
    worker, _ = build_worker(store, engine, max_batch_images=BATCH, drain_seconds=0.05)
    async with running(worker) as task:
        await generation_of(engine, 20)
        worker.drain()

        async def is_over() -> bool:
            engine.allow(1)
            return task.done()

        await eventually(is_over)
    jobs = await all_in(store, JobState.WAITING, 10, 20)
    assert [job.attempts for job in jobs] == [0, 0]


async def test_the_next_batch_is_generated_while_one_is_being_reported(store: Jobs) -> None:
    between = Between(store)
    engine = FakeEngine()
    worker, metrics = build_worker(between, engine)
    between.may_finish.clear()
    await submit(store, 10, 20, 30)
    async with running(worker):
        await generation_of(engine, 20)
        assert metrics.registry.get_sample_value(contract.IN_FLIGHT) == 2
        assert engine.started == [10, 20], "and not a third"
        between.may_finish.set()
        await all_in(store, JobState.SUCCEEDED, 10, 20, 30)


async def test_an_engine_that_takes_no_time_is_given_many_jobs_at_once(store: Jobs) -> None:
    await submit(store, *range(10))
    engine = FakeEngine(description=replace(DESCRIPTION, is_instant=True))
    worker, _ = build_worker(store, engine, max_batch_images=1)
    async with running(worker):
        await all_in(store, JobState.SUCCEEDED, *range(10))
    assert engine.batches == [list(range(10))]


# Joining those that are being generated


async def test_a_job_joins_those_that_are_being_generated_at_their_next_step(store: Jobs) -> None:
    engine = FakeEngine(gated=True)
    worker, _ = build_worker(store, engine, max_batch_images=BATCH)
    async with running(worker):
        await submit(store, 10)
        await generation_of(engine, 10)
        engine.allow(1)
        await submit(store, 20)
        await job_in(store, "job-20", lambda job: job.state == JobState.RUNNING)
        engine.allow(1)
        await generation_of(engine, 20)
        engine.allow(STEPS)
        await all_in(store, JobState.SUCCEEDED, 10, 20)
    assert engine.batches in ([[10], [10, 20], [20]], [[10], [10, 20]])
    assert engine.steps < 2 * STEPS


async def test_one_that_ends_makes_room_for_the_next_while_the_others_go_on(store: Jobs) -> None:
    engine = FakeEngine(gated=True)
    await submit(store, 10, steps=2)
    await submit(store, 20, steps=8)
    await submit(store, 30, 40, steps=2)
    worker, _ = build_worker(store, engine, max_batch_images=2)
    async with running(worker):
        engine.allow(2)
        await all_in(store, JobState.SUCCEEDED, 10)
        assert (await all_in(store, JobState.RUNNING, 20))[0].steps_done <= 2
        await all_in(store, JobState.RUNNING, 30)
        assert (await store.depth()).waiting == 1, "there is room for two"
        engine.allow(20)
        await all_in(store, JobState.SUCCEEDED, 20, 30, 40)
    assert engine.batches[:1] == [[10, 20]]
    assert [20, 30] in engine.batches
    assert max(map(len, engine.batches)) == 2


async def test_behind_a_job_of_another_size_nobody_joins_until_it_has_begun(store: Jobs) -> None:
    engine = FakeEngine(gated=True)
    worker, _ = build_worker(store, engine, max_batch_images=BATCH)
    async with running(worker):
        await submit(store, 10, steps=3)
        await generation_of(engine, 10)
        await submit(store, 20, width_pixels=128)
        await submit(store, 30, 40, steps=2)
        engine.allow(3)
        await generation_of(engine, 20)
        assert engine.started == [10, 20]
        engine.allow(20)
        await all_in(store, JobState.SUCCEEDED, 10, 20, 30, 40)
    assert engine.batches == [[10], [20], [30, 40]]


async def test_unless_a_number_is_set_the_engine_says_how_many_images_of_a_size_are_best(store: Jobs) -> None:
    engine = FakeEngine(gated=True, most_images=3)
    worker, _ = build_worker(store, engine, max_batch_images=None)
    async with running(worker):
        await submit(store, *range(10, 15))
        await all_in(store, JobState.RUNNING, 10, 11, 12)
        assert (await store.depth()).waiting == 2
        engine.allow(100)
        await all_in(store, JobState.SUCCEEDED, *range(10, 15))
    assert max(map(len, engine.batches)) == 3


async def test_a_job_with_more_images_than_there_is_room_for_is_generated_alone(store: Jobs) -> None:
    engine = FakeEngine()
    await submit(store, 10, images=4)
    await submit(store, 20)
    worker, _ = build_worker(store, engine, max_batch_images=2)
    async with running(worker):
        await all_in(store, JobState.SUCCEEDED, 10, 20)
    assert engine.batches == [[10], [20]]


async def test_a_jobs_last_attempt_is_alone_and_nobody_joins_it(build_stores: BuildStores) -> None:
    store = build_stores(JobBounds(max_attempts=2)).jobs
    engine = FakeEngine(gated=True)
    engine.unlucky_seeds = {10: 1}
    worker, _ = build_worker(store, engine, max_batch_images=BATCH)
    async with running(worker):
        await submit(store, 10, 20)
        engine.allow(STEPS + 1)  # one is the trial's
        await all_in(store, JobState.SUCCEEDED, 20)
        await job_in(store, "job-10", lambda job: job.attempts == 2)
        await submit(store, 30)
        engine.allow(1)
        await generation_of(engine, 10)
        engine.allow(100)
        await all_in(store, JobState.SUCCEEDED, 10, 30)
    assert [seeds for seeds in engine.batches if 10 in seeds] == [[10, 20], [10]]


async def test_the_store_is_not_asked_at_each_step(store: Jobs) -> None:
    between = Between(store)
    await submit(store, 10, steps=2000)
    worker, _ = build_worker(
        between, FakeEngine(), max_batch_images=BATCH, heartbeat_limit_seconds=60.0, lease_seconds=200.0
    )
    async with running(worker):
        await all_in(store, JobState.SUCCEEDED, 10)
    assert between.claims < 200, "but when something comes, and now and then"


async def test_encoding_holds_up_neither_the_next_step_nor_another_jobs_report(store: Jobs) -> None:
    engine = FakeEngine()
    engine.encoding_waits_for = {10: threading.Event()}
    await submit(store, 10, steps=1)
    await submit(store, 20, steps=8)
    worker, _ = build_worker(store, engine, max_batch_images=BATCH)
    async with running(worker):
        await all_in(store, JobState.SUCCEEDED, 20)
        await all_in(store, JobState.RUNNING, 10)
        engine.encoding_waits_for[10].set()
        await all_in(store, JobState.SUCCEEDED, 10)


# Previews


@pytest.mark.parametrize(
    ("steps", "previews", "expected"),
    [
        pytest.param(30, 0, [], id="none wanted"),
        pytest.param(30, 1, [15], id="one: in the middle"),
        pytest.param(30, 3, [7, 15, 22], id="three: evenly spaced, none after the last step"),
        pytest.param(3, 3, [1, 2], id="as many as there are steps before the last"),
        pytest.param(1, 3, [], id="the only step is the image"),
    ],
)
def test_previews_are_evenly_spaced(steps: int, previews: int, expected: list[int]) -> None:
    assert choose_preview_steps(steps, previews) == expected


async def test_previews_are_reported_at_once_to_those_who_want_them(store: Jobs) -> None:
    engine = FakeEngine(gated=True)
    wanting = build_job("wanting", seed=10, steps=8).model_copy(update={"wanted_previews": 3})
    await store.submit(wanting)
    await store.submit(build_job("not-wanting", seed=20, steps=8))
    # No heartbeat comes by itself during this test.
    worker, _ = build_worker(store, engine, max_batch_images=BATCH, heartbeat_limit_seconds=60.0, lease_seconds=200.0)
    expected = [previews_of([10], step)[0] for step in (2, 4, 6)]
    async with running(worker):
        for number in (1, 2, 3):
            engine.allow(2)
            await job_in(store, "wanting", lambda job, number=number: job.previews == number)  # type: ignore[misc]  # a default, since the loop goes on
            assert await store.previews("wanting") == tuple(expected[:number])
        engine.allow(2)
        assert (await final_job(store, "wanting")).state == JobState.SUCCEEDED
        other = await final_job(store, "not-wanting")
    assert other.previews == 0
    assert engine.batches == [[10, 20]]
