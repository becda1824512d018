"""What nobody foresaw, in a heartbeat or a report, costs at worst its job an attempt, never the worker or a lease."""

from collections.abc import Callable
from typing import Any

from easel_contract import metrics as contract
from easel_server.generation.job import JobState
from easel_server.stores.jobs.interface import JobBounds, Jobs
from easel_server.telemetry.metrics import ServerMetrics

from tests.inference_server.stores.conftest import BuildStores
from tests.inference_server.worker.workers import STEPS, build_worker, final_job, generation_of, running
from tests.support.eventually import eventually
from tests.support.fake_engine import FakeEngine
from tests.support.jobs import build_job
from tests.support.stored_images import image_store_of


class Faulty:
    """A store in front of another; its method of this name raises a KeyError while ``is_faulty`` says so."""

    def __init__(self, store: Any, method: str, is_faulty: Callable[[], bool]) -> None:
        self._store = store
        self._images = getattr(store, "_images", None)
        self._method = method
        self._is_faulty = is_faulty

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            if name == self._method and self._is_faulty():
                raise KeyError("a bug")
            return await getattr(self._store, name)(*args, **kwargs)

        return call


def failures(metrics: ServerMetrics, task: str) -> float:
    return metrics.registry.get_sample_value(contract.TASK_FAILURES_TOTAL, {"task": task}) or 0.0


async def test_a_heartbeat_that_fails_once_does_not_cost_the_lease(build_stores: BuildStores) -> None:
    store = build_stores(JobBounds(max_attempts=1)).jobs
    faults = iter([True, True])
    engine = FakeEngine(gated=True)
    worker, metrics = build_worker(
        Faulty(store, "heartbeat", lambda: next(faults, False)), engine, lease_seconds=0.6, heartbeat_limit_seconds=0.05
    )
    async with running(worker):
        await store.submit(build_job("a", seed=7))
        await generation_of(engine, 7)
        engine.allow(1)

        async def has_failed_twice_and_gone_on() -> bool:
            job = await store.get("a")
            return failures(metrics, "heartbeats") == 2 and job is not None and job.steps_done > 0

        await eventually(has_failed_twice_and_gone_on)
        assert (await store.reap()).failed == 0
        engine.allow(STEPS)
        assert (await final_job(store, "a")).state == JobState.SUCCEEDED
    assert engine.batches == [[7]]


async def test_a_job_whose_heartbeats_all_fail_is_stopped_and_ends_after_its_attempts(
    build_stores: BuildStores,
) -> None:
    store = build_stores(JobBounds(max_attempts=2)).jobs
    engine = FakeEngine(gated=True)
    worker, _ = build_worker(
        Faulty(store, "heartbeat", lambda: True), engine, lease_seconds=0.2, heartbeat_limit_seconds=0.02
    )
    async with running(worker):
        await store.submit(build_job("a", steps=100_000))

        async def has_ended() -> bool:
            engine.allow(1)
            job = await store.get("a")
            return job is not None and job.state.is_final

        await eventually(has_ended)
        engine.allow(10)
    job = await final_job(store, "a")
    assert (job.state, job.attempts) == (JobState.FAILED, 2)
    assert (job.error or "").startswith("its workers could not report that they were at it")
    assert engine.stopped == [7, 7]


async def test_a_result_that_cannot_be_reported_costs_its_job_attempts_and_the_worker_goes_on(store: Jobs) -> None:
    faults = iter([True] * 3)
    images = Faulty(image_store_of(store), "put", lambda: next(faults, False))
    worker, metrics = build_worker(store, FakeEngine(), images=images)
    async with running(worker):
        await store.submit(build_job("bad"))
        bad = await final_job(store, "bad")
        await store.submit(build_job("good"))
        assert (await final_job(store, "good")).state == JobState.SUCCEEDED
    assert (bad.state, bad.attempts, failures(metrics, "reporting")) == (JobState.FAILED, 3, 3)
    assert bad.error == "its outcome can't be reported: KeyError: 'a bug'"
