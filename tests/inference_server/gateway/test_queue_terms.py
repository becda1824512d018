"""On which terms requests are queued: until when they can be in time, and how much of their work counts."""

from typing import Any

import pytest
from easel_contract.gateway_config import GatewayConfig, LimitsConfig, QueueConfig, QueueOrder
from easel_server.gateway.queue_estimate import build_terms
from easel_server.gateway.refusals import RefusalError
from easel_server.generation.add_ons import HiresRequest
from easel_server.generation.job import Job
from easel_server.stores.jobs.interface import QueueTerms

from tests.inference_server.api.submitting import LOAD_SECONDS, Submitting
from tests.support.jobs import build_job

QUEUE = QueueConfig(target_seconds=30, cold_start_seconds=90)
BY_TIME = QUEUE.model_copy(update={"order": QueueOrder.FIRST_COME_FIRST_SERVED})


class Seen:
    """What the job store is given of each job: the terms and the target."""

    def __init__(self, submitting: Submitting, monkeypatch: pytest.MonkeyPatch) -> None:
        self.of: list[tuple[Job, QueueTerms | None, float | None]] = []
        submit = submitting.stores.jobs.submit

        async def note(job: Job, **options: Any) -> Any:
            self.of.append((job, options["terms"], options["target_seconds"]))
            return await submit(job, **options)

        monkeypatch.setattr(submitting.stores.jobs, "submit", note)


async def test_each_request_can_wait_for_as_long_as_its_own_work_leaves_of_the_target(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever makes it long: several images, a second pass, more steps."""
    submitting = Submitting(GatewayConfig(), gpu_seconds=2, seconds_per_unit=1.0, queue=QUEUE)
    seen = Seen(submitting, monkeypatch)
    for given in ({}, {"images": 4}, {"images": 4, "hires": HiresRequest(factor=2)}, {"images": 4, "steps": 90}):
        await submitting.submit(given={"prompt": "a cat", **given})
    works = [job.predicted_gpu_seconds for job, _, _ in seen.of]
    assert len(set(works)) == 4
    assert min(works) == works[0] > 2
    assert [terms for _, terms, _ in seen.of] == [QueueTerms(30 - work, 90 + 2 * 30) for work in works]
    assert {target for _, _, target in seen.of} == {30}


def test_a_job_that_is_longer_than_the_target_is_never_in_time() -> None:
    terms = build_terms(build_job("a", gpu_seconds=45), QUEUE)
    assert terms == QueueTerms(-15, 150)


@pytest.mark.parametrize("queue", [BY_TIME, QueueConfig()], ids=["first come, first served", "without a target"])
async def test_where_time_alone_decides_a_request_has_no_terms(
    queue: QueueConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitting = Submitting(GatewayConfig(), queue=queue)
    seen = Seen(submitting, monkeypatch)
    await submitting.submit()
    assert [(terms, target) for _, terms, target in seen.of] == [(None, queue.target_seconds)]


async def test_another_order_holds_from_the_next_request_on(monkeypatch: pytest.MonkeyPatch) -> None:
    submitting = Submitting(GatewayConfig(), queue=QUEUE)
    seen = Seen(submitting, monkeypatch)
    await submitting.submit()
    submitting.live.queue = BY_TIME
    await submitting.submit()
    assert [terms is None for _, terms, _ in seen.of] == [False, True]


async def test_what_is_counted_of_a_long_request_is_what_one_pod_can_do_of_it_in_time() -> None:
    submitting = Submitting(GatewayConfig(), gpu_seconds=45, queue=QUEUE)
    await submitting.submit()
    submitting.live.queue = QueueConfig()
    await submitting.submit()
    assert submitting.metrics.predicted_gpu_seconds == 45 + 45
    assert submitting.metrics.bounded_gpu_seconds == 30 + 45


async def test_a_wait_is_predicted_in_the_order_in_which_the_request_would_be_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = GatewayConfig(limits=LimitsConfig(max_wait_seconds=1), max_workers=1)
    submitting = Submitting(config, gpu_seconds=10, queue=QUEUE)
    await submitting.work()
    asked: list[QueueTerms | None] = []
    estimate = submitting.stores.jobs.estimate_position

    async def note(job: Job, terms: QueueTerms | None = None) -> Any:
        asked.append(terms)
        return await estimate(job, terms)

    monkeypatch.setattr(submitting.stores.jobs, "estimate_position", note)
    await submitting.submit()
    with pytest.raises(RefusalError, match="the predicted wait is 10 s"):
        await submitting.submit()
    assert asked == [QueueTerms(20, 150)]


async def test_while_a_service_sleeps_a_wait_is_predicted_by_its_measured_cold_start() -> None:
    """A worker measures how long it loads, and not how long its node and its image took."""
    submitting = Submitting(GatewayConfig(max_workers=1), gpu_seconds=4, queue=QUEUE)
    job = (await submitting.submit()).job
    assert LOAD_SECONDS < 90
    assert (await submitting.context.estimates.progress(job)).eta_seconds == 90 + 4
    submitting.live.queue = QUEUE.model_copy(update={"cold_start_seconds": 5.0})
    assert (await submitting.context.estimates.progress(job)).eta_seconds == LOAD_SECONDS + 4
