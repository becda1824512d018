"""The worker's loop against the job stores, with a fake engine that does what a test lets it do."""

import asyncio
import logging
import threading
from collections.abc import Sequence

import pytest
from easel_contract import metrics as contract
from easel_contract.add_ons import AddOnConfig
from easel_server.engine.interface import GatheredAddOn, GenerationError
from easel_server.generation.job import Job, JobState
from easel_server.generation.parameters import GenerationParameters
from easel_server.stores.jobs.interface import JobBounds, Jobs

from tests.inference_server.stores.conftest import BuildStores
from tests.inference_server.worker.workers import (
    STEPS,
    Outage,
    build_worker,
    final_job,
    generation_of,
    job_in,
    running,
)
from tests.support.eventually import eventually
from tests.support.fake_engine import FakeEngine, images_of
from tests.support.jobs import build_identity, build_job
from tests.support.stored_images import image_store_of, read_images, succeed


async def test_jobs_are_generated_one_after_the_other_and_counted(store: Jobs) -> None:
    engine = FakeEngine()
    worker, metrics = build_worker(store, engine)
    async with running(worker):
        for seed in range(3):
            await store.submit(build_job(f"job-{seed}", seed=seed, images=2))
        jobs = [await final_job(store, f"job-{seed}") for seed in range(3)]
    assert [job.state for job in jobs] == [JobState.SUCCEEDED] * 3
    assert engine.started == [0, 1, 2]
    assert await read_images(store, "job-1") == tuple(images_of(jobs[1].parameters))
    sample = metrics.registry.get_sample_value
    assert sample(contract.JOBS_TOTAL, {"outcome": "Succeeded"}) == 3
    assert sample(contract.JOB_LATENCY_SECONDS + "_count") == 3
    assert sample(contract.JOB_PHASE_SECONDS + "_count", {"phase": "queue"}) == 3
    assert sample(contract.IN_FLIGHT) == 0


async def test_only_jobs_of_the_model_it_holds_are_run_and_say_what_they_were_generated_by(store: Jobs) -> None:
    identity = build_identity()
    worker, _ = build_worker(store, FakeEngine(), identity=identity)
    async with running(worker):
        await store.submit(build_job("another", model="another"))
        await store.submit(build_job("own", model=identity.key))
        await store.submit(build_job("any"))
        ended = [await final_job(store, name) for name in ("own", "any")]
    assert [job.generated_by for job in ended] == [identity, identity]
    assert (await job_in(store, "another", lambda job: job.attempts == 0)).state == JobState.WAITING


async def test_heartbeats_carry_the_progress(store: Jobs) -> None:
    engine = FakeEngine(gated=True)
    worker, metrics = build_worker(store, engine)
    async with running(worker):
        await store.submit(build_job("a"))
        engine.allow(3)
        job = await job_in(store, "a", lambda job: job.steps_done == 3)
        assert job.state == JobState.RUNNING
        assert job.worker == "worker-a"
        assert metrics.registry.get_sample_value(contract.IN_FLIGHT) == 1
        engine.allow(1)
        assert (await final_job(store, "a")).state == JobState.SUCCEEDED


async def test_a_running_job_outlives_its_first_lease(build_stores: BuildStores) -> None:
    store = build_stores(JobBounds(max_attempts=1)).jobs
    engine = FakeEngine(gated=True)
    worker, _ = build_worker(store, engine, lease_seconds=1.0)
    async with running(worker):
        await store.submit(build_job("a"))
        await job_in(store, "a", lambda job: job.state == JobState.RUNNING)
        over_at = asyncio.get_running_loop().time() + 1.5

        async def lease_is_over() -> bool:
            await store.reap()
            return asyncio.get_running_loop().time() > over_at

        await eventually(lease_is_over)
        engine.allow(STEPS)
        assert (await final_job(store, "a")).state == JobState.SUCCEEDED


async def test_cancel_takes_effect_at_the_next_step(store: Jobs) -> None:
    engine = FakeEngine(gated=True)
    worker, metrics = build_worker(store, engine)
    async with running(worker):
        await store.submit(build_job("a", steps=1000, seed=5))
        engine.allow(2)
        await job_in(store, "a", lambda job: job.steps_done == 2)
        await store.cancel("a")

        async def is_canceled() -> bool:
            engine.allow(1)
            job = await store.get("a")
            return job is not None and job.state == JobState.CANCELED

        await eventually(is_canceled)
    assert engine.stopped == [5]
    assert engine.steps < 1000
    assert metrics.registry.get_sample_value(contract.JOBS_TOTAL, {"outcome": "Canceled"}) == 1
    assert metrics.registry.get_sample_value(contract.JOB_LATENCY_SECONDS + "_count") == 0


async def test_a_passed_deadline_ends_a_running_job(store: Jobs) -> None:
    engine = FakeEngine(gated=True)
    worker, _ = build_worker(store, engine)
    async with running(worker):
        await store.submit(build_job("a", steps=1000, deadline_seconds=0.5))
        await job_in(store, "a", lambda job: job.state == JobState.RUNNING)

        async def has_failed() -> bool:
            engine.allow(1)
            job = await store.get("a")
            return job is not None and job.state == JobState.FAILED

        await eventually(has_failed)
    job = await store.get("a")
    assert job is not None
    assert "deadline passed while the job was running" in (job.error or "")


async def test_a_request_the_model_cannot_serve_fails_at_once(store: Jobs, caplog: pytest.LogCaptureFixture) -> None:
    worker, _ = build_worker(store, FakeEngine(error=lambda: GenerationError("no such scheduler")))
    async with running(worker):
        await store.submit(build_job("a"))
        job = await final_job(store, "a")
    assert (job.state, job.error, job.attempts) == (JobState.FAILED, "no such scheduler", 1)
    assert not [record for record in caplog.records if record.exc_info]


async def test_an_unexpected_error_is_logged_without_the_prompt(store: Jobs, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    engine = FakeEngine()
    engine.unlucky_seeds = {7: 1}
    worker, _ = build_worker(store, engine)
    async with running(worker):
        await store.submit(build_job("a", prompt="a secret prompt", seed=7))
        job = await final_job(store, "a")
    assert (job.state, job.attempts) == (JobState.SUCCEEDED, 2)
    traceback = [record for record in caplog.records if record.exc_info]
    assert len(traceback) == 1
    assert "secret" not in caplog.text


async def test_what_the_engine_warns_of_is_logged_and_stays_with_the_job(
    store: Jobs, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    worker, _ = build_worker(store, FakeEngine(), max_batch_images=2)
    await store.submit(build_job("a", seed=13))
    await store.submit(build_job("b", seed=14))
    async with running(worker):
        jobs = [await final_job(store, name) for name in ("a", "b")]
    assert [job.warnings for job in jobs] == [("seed 13 is unlucky",), ()]
    assert [record.message for record in caplog.records if "unlucky" in record.message] == ["job a: seed 13 is unlucky"]


async def test_a_lost_claim_stops_the_generation_and_reports_nothing(build_stores: BuildStores) -> None:
    store = build_stores().jobs
    engine = FakeEngine(gated=True)
    worker, metrics = build_worker(store, engine, lease_seconds=0.001)  # any reap takes the job away
    async with running(worker):
        await store.submit(build_job("a", seed=1, steps=1000))
        await job_in(store, "a", lambda job: job.state == JobState.RUNNING)

        async def is_taken_away() -> bool:
            return (await store.reap()).requeued == 1

        await eventually(is_taken_away)
        other_claims = await store.claim("other", lease_seconds=60, wait_seconds=5)
        [other] = other_claims

        async def has_stopped() -> bool:
            engine.allow(1)
            return engine.stopped == [1]

        await eventually(has_stopped)
        assert await succeed(store, other, (b"by the other",))
    assert (await final_job(store, "a")).worker == "other"
    assert await read_images(store, "a") == (b"by the other",)
    assert metrics.registry.get_sample_value(contract.JOBS_TOTAL, {"outcome": "Succeeded"}) == 0


# Drain


async def test_a_drain_lets_the_job_finish_if_time_allows(store: Jobs) -> None:
    engine = FakeEngine(gated=True)
    worker, _ = build_worker(store, engine)
    async with running(worker) as task:
        await store.submit(build_job("a"))
        await store.submit(build_job("b"))
        await generation_of(engine, 7)
        worker.drain()
        engine.allow(STEPS)
        await asyncio.wait_for(task, 20)
    assert (await final_job(store, "a")).state == JobState.SUCCEEDED
    waiting = await store.get("b")
    assert waiting is not None
    assert (waiting.state, waiting.attempts) == (JobState.WAITING, 0)


async def test_a_drain_releases_what_does_not_fit(store: Jobs) -> None:
    engine = FakeEngine(gated=True)
    worker, _ = build_worker(store, engine, drain_seconds=0.05)
    async with running(worker) as task:
        await store.submit(build_job("a", steps=1000))
        await generation_of(engine, 7)
        worker.drain()

        async def is_over() -> bool:
            engine.allow(1)
            return task.done()

        await eventually(is_over)
    job = await store.get("a")
    assert job is not None
    assert (job.state, job.attempts, job.worker) == (JobState.WAITING, 0, None)
    assert engine.stopped == [7]


async def test_a_drain_releases_even_if_no_step_ends(store: Jobs) -> None:
    engine = FakeEngine(gated=True)
    worker, _ = build_worker(store, engine, drain_seconds=0.0, step_limit_seconds=0.05)
    async with running(worker) as task:
        await store.submit(build_job("a"))
        await generation_of(engine, 7)
        worker.drain()
        await asyncio.wait_for(task, 10)
        job = await store.get("a")
        engine.allow(STEPS)  # the abandoned thread may end now
    assert job is not None
    assert (job.state, job.attempts) == (JobState.WAITING, 0)


async def test_an_idle_worker_drains_at_once(store: Jobs) -> None:
    worker, _ = build_worker(store, FakeEngine())
    async with running(worker) as task:
        worker.drain()
        await asyncio.wait_for(task, 5)


# Outages


async def test_a_result_is_kept_until_the_store_is_back(store: Jobs) -> None:
    outage = Outage(store)
    engine = FakeEngine(gated=True)
    worker, _ = build_worker(outage, engine)
    async with running(worker):
        await store.submit(build_job("a"))
        await generation_of(engine, 7)
        outage.is_away = True
        engine.allow(STEPS)

        async def finish_was_tried_often() -> bool:
            return outage.refused.count("finish") > 3

        await eventually(finish_was_tried_often)
        outage.is_away = False
        job = await final_job(store, "a")
    assert (job.state, job.attempts) == (JobState.SUCCEEDED, 1)
    assert engine.started == [job.parameters.seed]
    assert "heartbeat" in outage.refused


async def test_images_are_kept_until_the_place_for_them_is_back_and_put_once(store: Jobs) -> None:
    away = Outage(image_store_of(store))
    away.is_away = True
    worker, _ = build_worker(store, FakeEngine(), images=away)
    async with running(worker):
        await store.submit(build_job("a"))

        async def put_was_tried_often() -> bool:
            return away.refused.count("put") > 3

        await eventually(put_was_tried_often)
        running_job = await store.get("a")
        assert running_job is not None
        assert running_job.state == JobState.RUNNING
        away.is_away = False
        job = await final_job(store, "a")
    assert (job.state, job.attempts, len(job.images)) == (JobState.SUCCEEDED, 1, 1)
    assert await read_images(store, "a") == tuple(images_of(job.parameters))


async def test_a_drain_does_not_wait_for_the_store_for_ever(store: Jobs) -> None:
    outage = Outage(store)
    engine = FakeEngine(gated=True)
    worker, _ = build_worker(outage, engine, drain_seconds=0.1)
    async with running(worker) as task:
        await store.submit(build_job("a"))
        await generation_of(engine, 7)
        outage.is_away = True
        engine.allow(STEPS)
        worker.drain()
        await asyncio.wait_for(task, 10)
    job = await store.get("a")
    assert job is not None
    assert job.state == JobState.RUNNING  # its lease runs out, and another worker takes it


async def test_an_idle_worker_outlives_an_outage(store: Jobs, caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage(store)
    outage.is_away = True
    worker, _ = build_worker(outage, FakeEngine())
    async with running(worker):

        async def claims_were_refused() -> bool:
            return outage.refused.count("claim") > 3

        await eventually(claims_were_refused)
        outage.is_away = False
        await store.submit(build_job("a"))
        assert (await final_job(store, "a")).state == JobState.SUCCEEDED
    assert len([record for record in caplog.records if "is unavailable" in record.message]) == 1  # reported once


async def test_a_jobs_add_ons_are_brought_while_others_are_generated(store: Jobs) -> None:
    engine = FakeEngine()
    engine.gathering_waits_for[1] = threading.Event()
    worker, _ = build_worker(store, engine, max_batch_images=2)
    style = AddOnConfig(name="style", source="someone/style")
    async with running(worker):
        await store.submit(build_job("styled", seed=1).model_copy(update={"add_ons": (style,)}))
        await store.submit(build_job("plain", seed=2))
        await final_job(store, "plain")
        assert engine.started == [2]
        engine.gathering_waits_for[1].set()
        ended = await final_job(store, "styled")
    assert ended.state is JobState.SUCCEEDED
    assert engine.gathered == [(1, ("style",))]


async def test_a_job_whose_add_ons_cant_be_had_fails_with_the_reason(store: Jobs) -> None:
    engine = FakeEngine()
    engine.missing_add_ons[1] = GenerationError("adapter style: there is no such repository")
    worker, _ = build_worker(store, engine)
    style = AddOnConfig(name="style", source="someone/style")
    async with running(worker):
        await store.submit(build_job("styled", seed=1).model_copy(update={"add_ons": (style,)}))
        ended = await final_job(store, "styled")
    assert (ended.state, engine.started) == (JobState.FAILED, [])
    assert "there is no such repository" in (ended.error or "")


STYLE = AddOnConfig(name="style", source="someone/style")


class OneIsMissing(FakeEngine):
    """Has every add-on but ``missing``."""

    missing = "clay"

    def gather(self, parameters: GenerationParameters, add_ons: Sequence[AddOnConfig]) -> tuple[GatheredAddOn, ...]:
        if any(each.name == self.missing for each in add_ons):
            raise GenerationError(f"{self.missing} (/add-ons/loras) isn't there")
        return super().gather(parameters, add_ons)


async def test_a_worker_says_which_of_a_jobs_add_ons_it_couldnt_have_until_a_job_has_it(store: Jobs) -> None:
    engine = OneIsMissing()
    worker, metrics = build_worker(store, engine)
    both = (STYLE, AddOnConfig(name="clay", source="/add-ons/loras"))
    async with running(worker):
        await store.submit(build_job("first", seed=1).model_copy(update={"add_ons": both}))
        assert (await final_job(store, "first")).state is JobState.FAILED
        assert [(each.name, each.message) for each in metrics.add_on_problems.list_problems()] == [
            ("clay", "clay (/add-ons/loras) isn't there")
        ]
        engine.missing = "nothing"
        await store.submit(build_job("second", seed=2).model_copy(update={"add_ons": both}))
        assert (await final_job(store, "second")).state is JobState.SUCCEEDED
        assert metrics.add_on_problems.list_problems() == []


async def gathering_of(engine: FakeEngine, seed: int) -> None:
    async def has_begun() -> bool:
        return any(each == seed for each, _ in engine.gathered)

    await eventually(has_begun)


def build_styled(job_id: str, seed: int) -> Job:
    return build_job(job_id, seed=seed).model_copy(update={"add_ons": (STYLE,)})


async def test_a_job_that_waits_for_its_add_ons_ends_as_soon_as_it_is_canceled(store: Jobs) -> None:
    engine = FakeEngine()
    engine.gathering_waits_for[1] = threading.Event()
    worker, _ = build_worker(store, engine)
    async with running(worker):
        await store.submit(build_styled("styled", 1))
        await gathering_of(engine, 1)
        await store.cancel("styled")
        ended = await final_job(store, "styled")
        await store.submit(build_job("plain", seed=2))
        assert (await final_job(store, "plain")).state is JobState.SUCCEEDED
        engine.gathering_waits_for[1].set()  # the download ends when nobody waits for it any more
    assert (ended.state, engine.started) == (JobState.CANCELED, [2])


async def test_a_worker_that_is_drained_leaves_what_is_gathered_to_others(store: Jobs) -> None:
    engine = FakeEngine()
    engine.gathering_waits_for[1] = threading.Event()
    worker, _ = build_worker(store, engine)
    async with running(worker):
        await store.submit(build_styled("styled", 1))
        await gathering_of(engine, 1)
        worker.drain()
    engine.gathering_waits_for[1].set()
    job = await store.get("styled")
    assert job is not None
    assert (job.state, job.attempts) == (JobState.WAITING, 0)


async def test_jobs_whose_add_ons_are_on_their_way_leave_the_room_to_others(store: Jobs) -> None:
    engine = FakeEngine()
    worker, _ = build_worker(store, engine)  # room for one image
    async with running(worker):
        for seed in (1, 2, 3):
            engine.gathering_waits_for[seed] = threading.Event()
            await store.submit(build_styled(f"styled-{seed}", seed))
        await store.submit(build_job("plain", seed=9))
        assert (await final_job(store, "plain")).state is JobState.SUCCEEDED
        for seed in (3, 2, 1):
            engine.gathering_waits_for[seed].set()
            assert (await final_job(store, f"styled-{seed}")).state is JobState.SUCCEEDED
    assert engine.started == [9, 3, 2, 1]


async def test_add_ons_that_may_be_had_later_cost_attempts_and_then_the_job(store: Jobs) -> None:
    engine = FakeEngine()
    engine.missing_add_ons[1] = OSError("style (someone/style): the Hugging Face Hub was not reached")
    worker, _ = build_worker(store, engine)
    async with running(worker):
        await store.submit(build_styled("styled", 1))
        ended = await final_job(store, "styled")
    assert (ended.state, ended.error) == (
        JobState.FAILED,
        "style (someone/style): the Hugging Face Hub was not reached",
    )
    assert len(engine.gathered) == ended.attempts > 1
    assert engine.started == [], "the engine is blamed for nothing, so that no trial is run"


async def test_a_job_says_with_which_content_of_its_add_ons_it_was_generated(store: Jobs) -> None:
    engine = FakeEngine()
    engine.digests["style"] = "sha256:abc"
    identity = build_identity()
    worker, _ = build_worker(store, engine, identity=identity)
    async with running(worker):
        await store.submit(build_styled("styled", 1))
        await store.submit(build_job("plain", seed=2))
        styled, plain = await final_job(store, "styled"), await final_job(store, "plain")
    assert styled.generated_by == identity.model_copy(update={"adapters": ("style@sha256:abc",)})
    assert plain.generated_by == identity


def build_using(job_id: str, seed: int, *add_ons: AddOnConfig) -> Job:
    return build_job(job_id, seed=seed).model_copy(update={"add_ons": add_ons})


async def test_sources_that_never_answer_hold_up_nobody_whose_add_ons_come_from_elsewhere(store: Jobs) -> None:
    engine = FakeEngine(most_images=200)
    engine.bringing_waits_for["stuck"] = threading.Event()
    stuck = AddOnConfig(name="stuck", source="https://example.com/stuck.safetensors")
    volume = AddOnConfig(name="volume", source="/volumes/styles", file="volume.safetensors")
    worker, _ = build_worker(store, engine)
    async with running(worker):
        await store.submit(build_styled("styled before", 1))
        assert (await final_job(store, "styled before")).state is JobState.SUCCEEDED
        many = range(100, 130)
        for seed in many:
            await store.submit(build_using(f"stuck {seed}", seed, stuck))
        await eventually(lambda: is_waiting(store, f"stuck {many[-1]}"))
        await store.submit(build_styled("styled", 2))
        await store.submit(build_using("from a volume", 3, volume))
        assert (await final_job(store, "styled")).state is JobState.SUCCEEDED
        assert (await final_job(store, "from a volume")).state is JobState.SUCCEEDED
        assert engine.brought.count("stuck") == 1, "one call for all who wait for it"
        engine.bringing_waits_for["stuck"].set()
        for seed in many:
            assert (await final_job(store, f"stuck {seed}")).state is JobState.SUCCEEDED


async def is_waiting(store: Jobs, job_id: str) -> bool:
    job = await store.get(job_id)
    return job is not None and job.state is JobState.RUNNING
