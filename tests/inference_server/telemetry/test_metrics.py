"""The metrics page, and what it says when the job store is away."""

import asyncio
from typing import Any

import pytest
from easel_contract import metrics as contract
from easel_contract.server_config import SafetyPolicy
from easel_server.generation.job import JobState
from easel_server.generation.messages import count_flagged, describe_flagged
from easel_server.stores.dropped import DroppedRecords
from easel_server.stores.errors import StoreEvictsError, StoreUnavailableError
from easel_server.stores.jobs.interface import JobBounds
from easel_server.stores.opening import open_memory_stores
from easel_server.telemetry import metrics as metrics_module
from easel_server.telemetry.gateway_metrics import CacheResult
from easel_server.telemetry.metrics import JobTiming, ServerMetrics
from easel_server.webhooks.deliverer import DeliveryOutcome
from prometheus_client.parser import text_string_to_metric_families

from tests.support.eventually import eventually
from tests.support.fake_engine import DESCRIPTION
from tests.support.jobs import build_job

GATEWAY_ONLY = {
    contract.JOBS_SUBMITTED_TOTAL,
    contract.HTTP_REQUESTS_TOTAL,
    contract.HTTP_REQUEST_DURATION_SECONDS,
    contract.WEBHOOK_DELIVERY_SECONDS,
    contract.CUSTOMER_JOBS_TOTAL,
    contract.CUSTOMER_GPU_SECONDS_TOTAL,
    contract.CACHE_REQUESTS_TOTAL,
    contract.REFUSALS_TOTAL,
    contract.INPUT_FETCHES_TOTAL,
    contract.WEBHOOKS_TOTAL,
    contract.PREDICTED_GPU_SECONDS_TOTAL,
    contract.BOUNDED_GPU_SECONDS_TOTAL,
    contract.STREAMS,
}
WORKER_ONLY = {
    contract.ADD_ON_UNAVAILABLE,
    contract.GATHER_FAILURES_TOTAL,
    contract.GATHERED_BYTES_TOTAL,
    contract.GATHER_SECONDS,
    contract.FLAGGED_IMAGES_TOTAL,
    contract.IN_FLIGHT,
    contract.JOBS_TOTAL,
    contract.FAILED_ATTEMPTS_TOTAL,
    contract.JOB_WORKER_SECONDS,
    contract.JOB_LATENCY_SECONDS,
    contract.JOB_PHASE_SECONDS,
    contract.LONGEST_JOB_SECONDS,
    contract.MODEL_LOAD_SECONDS,
    contract.START_PHASE_SECONDS,
    contract.RESTARTS,
    contract.ENGINE_INFO,
    contract.BATCH_IMAGES,
    contract.BUSY_SECONDS_TOTAL,
    contract.WORK_GPU_SECONDS_TOTAL,
}
QUEUE = {
    contract.QUEUE_DEPTH,
    contract.BACKLOG_GPU_SECONDS,
    contract.BOUNDED_BACKLOG_GPU_SECONDS,
    contract.OVERRUNNING_JOBS,
    contract.OLDEST_WAITING_AGE_SECONDS,
    contract.WORKERS,
    contract.ENGINE_FAILURES_TOTAL,
}
OF_JOB_STORE = {
    *QUEUE,
    contract.BUILD_INFO,
    contract.BROKER_UP,
    contract.REDIS_EVICTS,
    contract.REDIS_FULL,
    contract.DROPPED_RECORDS_TOTAL,
    contract.TASK_FAILURES_TOTAL,
}

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parse(page: bytes) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def families(page: bytes) -> set[str]:
    names = {line.split()[2] for line in page.decode().splitlines() if line.startswith("# TYPE")}
    return {name for name in names if not name.endswith("_created")}


class AbsentJobs:
    async def depth(self) -> Any:
        raise StoreUnavailableError("redis:6379", "depth", "ConnectionError", "wait")


class SilentJobs:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.questions = 0
        self.may_answer = asyncio.Event()
        self.memory = open_memory_stores(JobBounds()).jobs

    async def depth(self) -> Any:
        self.questions += 1
        await self.may_answer.wait()
        return await self.memory.depth()


async def test_every_metric_of_the_contract_is_shown_by_the_role_that_has_it() -> None:
    jobs = open_memory_stores(JobBounds()).jobs
    everything = ServerMetrics(gateway=True, worker=True)
    assert families(await everything.render(jobs)) == GATEWAY_ONLY | WORKER_ONLY | OF_JOB_STORE
    assert families(await ServerMetrics(gateway=True, worker=False).render(jobs)) == GATEWAY_ONLY | OF_JOB_STORE
    assert families(await ServerMetrics(gateway=False, worker=True).render(jobs)) == WORKER_ONLY | OF_JOB_STORE


async def test_the_queue_is_read_when_the_page_is() -> None:
    jobs = open_memory_stores(JobBounds()).jobs
    metrics = ServerMetrics(gateway=True, worker=False)
    for name in ("a", "b", "c"):
        await jobs.submit(build_job(name))
    await jobs.claim("w", lease_seconds=60, wait_seconds=0)
    samples = parse(await metrics.render(jobs))
    assert samples[contract.BROKER_UP, ()] == 1
    assert samples[contract.QUEUE_DEPTH, ((contract.LABEL_STATE, contract.STATE_WAITING),)] == 2
    assert samples[contract.QUEUE_DEPTH, ((contract.LABEL_STATE, contract.STATE_RUNNING),)] == 1
    assert samples[contract.OLDEST_WAITING_AGE_SECONDS, ()] > 0


async def test_an_absent_job_store_leaves_no_figure_of_the_queue_not_even_an_old_one() -> None:
    metrics = ServerMetrics(gateway=True, worker=False)
    await metrics.render(open_memory_stores(JobBounds()).jobs)
    samples = parse(await metrics.render(AbsentJobs()))  # type: ignore[arg-type]  # depth is all it needs
    assert samples[contract.BROKER_UP, ()] == 0
    assert not [name for name, _ in samples if name in QUEUE]


async def test_a_redis_that_is_refused_is_distinguished_from_one_that_is_away() -> None:
    class RefusedJobs:
        async def depth(self) -> Any:
            raise StoreEvictsError("redis:6379", "INFO", "allkeys-lru", "CONFIG SET it", policy="allkeys-lru")

    metrics = ServerMetrics(gateway=True, worker=False)
    samples = parse(await metrics.render(RefusedJobs()))  # type: ignore[arg-type]  # depth is all it needs
    assert (samples[contract.BROKER_UP, ()], samples[contract.REDIS_EVICTS, ()]) == (0, 1)
    samples = parse(await metrics.render(AbsentJobs()))  # type: ignore[arg-type]
    assert (samples[contract.BROKER_UP, ()], samples[contract.REDIS_EVICTS, ()]) == (0, 0)


async def test_records_that_were_dropped_are_counted_by_their_kind() -> None:
    dropped = DroppedRecords()
    metrics = ServerMetrics(gateway=True, worker=False, dropped=dropped)
    for name in ("a", "b", "a"):
        dropped.note("job", name)
    samples = parse(await metrics.render(open_memory_stores(JobBounds()).jobs))
    assert samples[contract.DROPPED_RECORDS_TOTAL, (("kind", "job"),)] == 2
    assert samples[contract.DROPPED_RECORDS_TOTAL, (("kind", "run"),)] == 0


async def test_a_bad_record_hides_the_queue_and_nothing_else() -> None:
    class BadRecord:
        async def depth(self) -> Any:
            raise KeyError("submitted_us")

    metrics = ServerMetrics(gateway=True, worker=False)
    samples = parse(await metrics.render(BadRecord()))  # type: ignore[arg-type]  # depth is all it needs
    assert samples[contract.BROKER_UP, ()] == 0
    assert samples[contract.JOBS_SUBMITTED_TOTAL, ()] == 0
    assert samples[contract.TASK_FAILURES_TOTAL, (("task", "metrics-shared"),)] == 1


async def test_a_silent_job_store_delays_the_page_by_its_time_out_only_and_is_asked_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics_module, "DEPTH_TIMEOUT_SECONDS", 0.02)
    metrics = ServerMetrics(gateway=True, worker=False)
    jobs = SilentJobs()
    for _ in range(3):
        page = await asyncio.wait_for(metrics.render(jobs), 5)  # type: ignore[arg-type]  # depth is all it needs
        assert parse(page)[contract.BROKER_UP, ()] == 0
    assert jobs.questions == 1
    jobs.may_answer.set()

    async def is_up() -> bool:
        page = await metrics.render(jobs)  # type: ignore[arg-type]  # depth is all it needs
        return parse(page)[contract.BROKER_UP, ()] == 1

    await eventually(is_up)


async def test_the_longest_job_stays_the_longest() -> None:
    metrics, jobs = ServerMetrics(gateway=False, worker=True), open_memory_stores(JobBounds()).jobs
    seen = []
    for seconds in (0.0, 40.0, 3.0, 90.0):
        if seconds:
            timing = JobTiming(queue_seconds=500, load_seconds=0, run_seconds=seconds, encode_seconds=0)
            metrics.count_job(JobState.SUCCEEDED, timing)
        seen.append(parse(await metrics.render(jobs))[contract.LONGEST_JOB_SECONDS, ()])
    assert seen == [0, 40, 40, 90]


async def test_jobs_are_counted_by_outcome_and_only_successes_are_timed() -> None:
    metrics = ServerMetrics(gateway=False, worker=True)
    metrics.count_job(JobState.SUCCEEDED, JobTiming(1.0, load_seconds=4.0, run_seconds=2.0, encode_seconds=0.5))
    metrics.count_job(JobState.FAILED, JobTiming(9.0, load_seconds=9.0, run_seconds=9.0, encode_seconds=9.0))
    metrics.describe_engine(DESCRIPTION)
    samples = parse(await metrics.render(open_memory_stores(JobBounds()).jobs))
    assert samples[contract.JOBS_TOTAL, (("outcome", "Succeeded"),)] == 1
    assert samples[contract.LONGEST_JOB_SECONDS, ()] == 2.5, "what a worker that stops needs: not the wait before it"
    assert samples[contract.JOBS_TOTAL, (("outcome", "Failed"),)] == 1
    assert samples[contract.FAILED_ATTEMPTS_TOTAL, ()] == 1
    assert samples[contract.JOB_WORKER_SECONDS + "_sum", ()] == 2.5
    assert samples[contract.JOBS_TOTAL, (("outcome", "Canceled"),)] == 0
    assert samples[contract.JOB_LATENCY_SECONDS + "_sum", ()] == 7.5
    assert samples[contract.JOB_LATENCY_SECONDS + "_bucket", (("le", "7.5"),)] == 1
    assert samples[contract.JOB_LATENCY_SECONDS + "_bucket", (("le", "5.0"),)] == 0
    phases = {"queue": 1.0, "load": 4.0, "run": 2.0, "encode": 0.5}
    for phase, seconds in phases.items():
        assert samples[contract.JOB_PHASE_SECONDS + "_sum", (("phase", phase),)] == seconds
    assert samples[contract.MODEL_LOAD_SECONDS, ()] == DESCRIPTION.load_seconds
    labels = (("device", "cpu"), ("dtype", "float32"), ("engine", "fake"), ("model", "fake"))
    assert samples[contract.ENGINE_INFO, labels] == 1


async def test_counters_that_are_known_beforehand_begin_at_zero() -> None:
    samples = parse(await ServerMetrics(gateway=True, worker=True).render(open_memory_stores(JobBounds()).jobs))
    for result in CacheResult:
        assert samples[contract.CACHE_REQUESTS_TOTAL, (("result", result),)] == 0
    for outcome in DeliveryOutcome:
        assert samples[contract.WEBHOOKS_TOTAL, (("outcome", outcome),)] == 0


async def test_seconds_of_what_still_goes_on_are_counted_too() -> None:
    metrics = ServerMetrics(gateway=False, worker=True)

    async def busy_seconds() -> float:
        return parse(await metrics.render(open_memory_stores(JobBounds()).jobs))[contract.BUSY_SECONDS_TOTAL, ()]

    with metrics.working_on(1):
        first = await busy_seconds()

        async def has_grown() -> bool:
            return await busy_seconds() > first

        await eventually(has_grown)
    ended = await busy_seconds()
    assert ended > first
    assert await busy_seconds() == ended


async def test_two_sets_of_metrics_live_side_by_side() -> None:
    first, second = ServerMetrics(gateway=True, worker=True), ServerMetrics(gateway=True, worker=True)
    first.count_submitted()
    assert first.registry.get_sample_value(contract.JOBS_SUBMITTED_TOTAL) == 1
    assert second.registry.get_sample_value(contract.JOBS_SUBMITTED_TOTAL) == 0


def test_flagged_images_are_counted_by_what_became_of_them() -> None:
    metrics = ServerMetrics(gateway=False, worker=True)
    for said in ([describe_flagged([0, 2], 3, SafetyPolicy.BLUR)], [describe_flagged([0], 1, SafetyPolicy.REFUSE)]):
        for policy, images in count_flagged(said).items():
            metrics.count_flagged(policy, images)
    counted = {
        action: metrics.registry.get_sample_value(contract.FLAGGED_IMAGES_TOTAL, {"action": action})
        for action in ("flagged", "blurred", "refused")
    }
    assert counted == {"flagged": 0, "blurred": 2, "refused": 1}
