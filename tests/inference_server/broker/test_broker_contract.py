"""What both brokers promise; every test runs against both, Redis being a real server."""

import asyncio
import dataclasses
from collections import Counter
from datetime import timedelta

import pytest
from easel_server.broker import sentences
from easel_server.broker.interface import (
    Broker,
    BrokerSettings,
    Canceled,
    Claim,
    Failed,
    JobConflictError,
    QueueDepth,
    QueueFullError,
    ReapReport,
    Succeeded,
    Verdict,
)
from easel_server.job import Job, JobState, WebhookTarget

from tests.inference_server.broker.conftest import BuildBroker
from tests.support.eventually import eventually
from tests.support.jobs import build_job

LONG_SECONDS = 60.0
SHORT_SECONDS = 0.03
IMAGES = (b"\x89PNG\x00\xff one", b"two")


async def claim(broker: Broker, worker: str = "worker-a", lease_seconds: float = LONG_SECONDS) -> Claim:
    (claimed,) = await broker.claim(worker, lease_seconds=lease_seconds, wait_seconds=0)
    return claimed


async def job_of(broker: Broker, job_id: str) -> Job:
    job = await broker.get(job_id)
    assert job is not None
    return job


async def is_empty(broker: Broker) -> bool:
    """Whether nothing waits or runs."""
    return dataclasses.replace(await broker.depth(), workers=0) == QueueDepth(0, 0, 0)


async def reap_something(broker: Broker) -> ReapReport:
    async def reap() -> ReapReport | None:
        report = await broker.reap()
        return report if report != ReapReport() else None

    report = await eventually(reap)
    assert report is not None
    return report


# Submit


async def test_a_submitted_job_is_stored_as_it_was_given(broker: Broker) -> None:
    job = build_job("a", deadline_seconds=LONG_SECONDS, webhook=WebhookTarget(url="http://x/", events=("start",)))
    submission = await broker.submit(job)
    assert submission.created
    stored = submission.job
    assert stored == job.model_copy(update={"submitted_at": stored.submitted_at, "deadline_at": stored.deadline_at})
    assert stored.deadline_at is not None
    assert stored.deadline_at - stored.submitted_at == timedelta(seconds=LONG_SECONDS)
    assert await broker.get("a") == stored


async def test_a_submitters_clock_that_is_wrong_does_not_matter(broker: Broker) -> None:
    job = build_job("a", deadline_seconds=LONG_SECONDS)
    ahead = timedelta(hours=5)
    assert job.deadline_at is not None
    skewed = job.model_copy(update={"submitted_at": job.submitted_at - ahead, "deadline_at": job.deadline_at - ahead})
    stored = (await broker.submit(skewed)).job
    assert abs(stored.submitted_at - job.submitted_at) < timedelta(seconds=30)
    assert (await claim(broker)).job.id == "a"


async def test_submitting_the_same_job_again_returns_the_stored_one(broker: Broker) -> None:
    first = await broker.submit(build_job("a"))
    running = await claim(broker)
    second = await broker.submit(build_job("a"))
    assert not second.created
    assert second.job == running.job
    assert second.job.submitted_at == first.job.submitted_at
    assert (await broker.depth()).waiting == 0


@pytest.mark.parametrize(
    "other",
    [
        build_job("a", prompt="a cat"),
        build_job("a", owner="somebody-else"),
        build_job("a", webhook=WebhookTarget(url="http://x/")),
    ],
    ids=["other parameters", "another owner", "another webhook"],
)
async def test_another_job_under_a_known_id_is_refused(broker: Broker, other: Job) -> None:
    stored = (await broker.submit(build_job("a"))).job
    with pytest.raises(JobConflictError, match="job a exists already"):
        await broker.submit(other)
    assert await broker.get("a") == stored


async def test_a_full_queue_refuses_and_says_how_full_it_is(build_broker: BuildBroker) -> None:
    broker = build_broker(BrokerSettings(max_queue_depth=2))
    await broker.submit(build_job("a"))
    await broker.submit(build_job("b"))
    with pytest.raises(QueueFullError) as caught:
        await broker.submit(build_job("c"))
    assert (caught.value.depth, caught.value.bound) == (2, 2)
    assert await broker.get("c") is None
    assert not (await broker.submit(build_job("b"))).created  # known jobs aren't refused
    assert (await broker.submit(build_job("d"), answer=IMAGES)).created  # nor those that needn't queue
    await claim(broker)
    assert (await broker.submit(build_job("c"))).created


async def test_a_job_that_is_answered_at_once_is_never_queued(broker: Broker) -> None:
    webhook = WebhookTarget(url="http://x/")
    submission = await broker.submit(build_job("a", webhook=webhook), answer=IMAGES)
    assert submission.job.state == JobState.SUCCEEDED
    assert submission.job.steps_done == submission.job.parameters.steps
    assert await broker.images("a") == IMAGES
    assert await broker.claim("w", lease_seconds=1, wait_seconds=0) == ()
    delivery = await broker.claim_delivery(lease_seconds=LONG_SECONDS, wait_seconds=0)
    assert delivery is not None
    assert delivery.job == submission.job


async def test_an_unknown_job_is_none_everywhere(broker: Broker) -> None:
    assert await broker.get("a") is None
    assert await broker.cancel("a") is None
    assert await broker.wait("a", 0.01) is None
    assert await broker.images("a") == ()


# Claim


async def test_jobs_are_claimed_in_the_order_of_their_submission(broker: Broker) -> None:
    for number in range(12):
        await broker.submit(build_job(f"job-{number}"))
    claimed = [(await claim(broker)).job.id for _ in range(12)]
    assert claimed == [f"job-{number}" for number in range(12)]


async def test_a_claimed_job_says_who_runs_it_and_since_when(broker: Broker) -> None:
    submitted = (await broker.submit(build_job("a"))).job
    claimed = await claim(broker, worker="worker-7")
    assert claimed.job.state == JobState.RUNNING
    assert claimed.job.worker == "worker-7"
    assert claimed.job.attempts == 1
    assert claimed.job.started_at is not None
    assert claimed.job.started_at >= submitted.submitted_at
    assert await broker.get("a") == claimed.job
    depth = await broker.depth()
    assert (depth.waiting, depth.running, depth.oldest_waiting_age_seconds) == (0, 1, 0)


async def test_a_claim_waits_for_a_job_to_come(broker: Broker) -> None:
    claiming = asyncio.create_task(broker.claim("w", lease_seconds=LONG_SECONDS, wait_seconds=20))
    await asyncio.sleep(0)
    await broker.submit(build_job("a"))
    (claimed,) = await asyncio.wait_for(claiming, 5)
    assert claimed.job.id == "a"


async def test_a_claim_that_waited_in_vain_is_none(broker: Broker) -> None:
    assert await broker.claim("w", lease_seconds=1, wait_seconds=0.05) == ()


async def test_two_hundred_jobs_and_four_claimers_make_two_hundred_completions(build_broker: BuildBroker) -> None:
    gateway = build_broker(BrokerSettings())
    workers = [gateway] * 4
    if type(gateway).__name__ == "RedisBroker":
        workers = [build_broker(BrokerSettings()) for _ in range(4)]
    completions: Counter[str] = Counter()

    async def work(broker: Broker, name: str) -> None:
        while sum(completions.values()) < 200:
            for claimed in await broker.claim(name, lease_seconds=LONG_SECONDS, wait_seconds=0.1):
                assert await broker.heartbeat(claimed, 1) == Verdict.CONTINUE
                assert await broker.finish(claimed, Succeeded((claimed.job.id.encode(),)))
                completions[claimed.job.id] += 1

    async def submit() -> None:
        for number in range(200):
            await gateway.submit(build_job(f"job-{number}"))

    await asyncio.gather(submit(), *(work(broker, f"worker-{index}") for index, broker in enumerate(workers)))
    assert completions == Counter(f"job-{number}" for number in range(200))
    assert await gateway.images("job-123") == (b"job-123",)
    assert await is_empty(gateway)


# Finish


async def test_a_succeeded_job_has_its_images_and_all_its_steps(broker: Broker) -> None:
    await broker.submit(build_job("a", images=2))
    claimed = await claim(broker)
    assert await broker.images("a") == ()
    assert await broker.finish(claimed, Succeeded(IMAGES))
    job = await job_of(broker, "a")
    assert job.state == JobState.SUCCEEDED
    assert job.steps_done == job.parameters.steps
    assert job.finished_at is not None
    assert job.started_at is not None
    assert job.submitted_at <= job.started_at <= job.finished_at
    assert await broker.images("a") == IMAGES
    assert await is_empty(broker)


async def test_a_failed_job_says_why_and_is_not_tried_again(broker: Broker) -> None:
    await broker.submit(build_job("a"))
    assert await broker.finish(await claim(broker), Failed("the prompt is too long"))
    job = await job_of(broker, "a")
    assert (job.state, job.error) == (JobState.FAILED, "the prompt is too long")
    assert await broker.claim("w", lease_seconds=1, wait_seconds=0) == ()


async def test_a_repeated_finish_is_accepted_and_changes_nothing(broker: Broker) -> None:
    await broker.submit(build_job("a"))
    claimed = await claim(broker)
    assert await broker.finish(claimed, Succeeded(IMAGES))
    job = await broker.get("a")
    assert await broker.finish(claimed, Succeeded(IMAGES))
    assert await broker.images("a") == IMAGES
    assert await broker.get("a") == job


async def test_a_lost_claim_can_neither_finish_nor_release_nor_heartbeat(broker: Broker) -> None:
    await broker.submit(build_job("a"))
    lost = await claim(broker, "slow", lease_seconds=SHORT_SECONDS)
    assert (await reap_something(broker)).requeued == 1
    current = await claim(broker, "quick")
    assert await broker.heartbeat(lost, 2) == Verdict.LOST
    assert not await broker.finish(lost, Succeeded((b"stale",)))
    assert not await broker.release(lost)
    assert await broker.get("a") == current.job
    assert await broker.finish(current, Succeeded((b"current",)))
    assert not await broker.finish(lost, Failed("stale"))
    assert await broker.images("a") == (b"current",)
    assert (await job_of(broker, "a")).worker == "quick"


async def test_results_are_forgotten_after_their_time(build_broker: BuildBroker) -> None:
    broker = build_broker(BrokerSettings(result_ttl_seconds=0.05))
    await broker.submit(build_job("a"))
    await broker.submit(build_job("waits"))
    await broker.submit(build_job("runs"))
    await broker.finish(await claim(broker), Succeeded(IMAGES))
    await broker.cancel("runs")
    running = await claim(broker)

    async def is_forgotten() -> bool:
        return await broker.get("a") is None and await broker.get("runs") is None

    assert await eventually(is_forgotten)
    assert await broker.images("a") == ()
    assert (await job_of(broker, running.job.id)).state == JobState.RUNNING  # unfinished jobs never expire
    assert (await broker.submit(build_job("a", prompt="another"))).created  # the id is free again


# Leases


async def test_a_heartbeat_extends_the_lease_and_records_progress(broker: Broker) -> None:
    await broker.submit(build_job("a"))
    claimed = await claim(broker, lease_seconds=2.0)
    extended_until = asyncio.get_running_loop().time() + 2.5

    async def beat() -> bool:
        assert await broker.heartbeat(claimed, 3) == Verdict.CONTINUE
        assert await broker.reap() == ReapReport()
        return asyncio.get_running_loop().time() > extended_until

    await eventually(beat)
    assert (await job_of(broker, "a")).steps_done == 3
    assert (await reap_something(broker)).requeued == 1  # and without heartbeats it ends


async def test_a_job_of_a_lost_worker_returns_ahead_of_later_ones(broker: Broker) -> None:
    await broker.submit(build_job("first"))
    await broker.submit(build_job("second"))
    await claim(broker, lease_seconds=SHORT_SECONDS)
    await reap_something(broker)
    job = await job_of(broker, "first")
    assert (job.state, job.worker, job.attempts, job.steps_done) == (JobState.WAITING, None, 1, 0)
    again = await claim(broker)
    assert (again.job.id, again.job.attempts) == ("first", 2)


async def test_a_job_that_loses_its_worker_too_often_fails_and_says_so(build_broker: BuildBroker) -> None:
    broker = build_broker(BrokerSettings(max_attempts=2))
    await broker.submit(build_job("a"))
    await claim(broker, "worker-a", lease_seconds=SHORT_SECONDS)
    assert (await reap_something(broker)) == ReapReport(requeued=1)
    await claim(broker, "worker-b", lease_seconds=SHORT_SECONDS)
    assert (await reap_something(broker)) == ReapReport(failed=1)
    job = await job_of(broker, "a")
    assert job.state == JobState.FAILED
    assert job.error == sentences.LOST % (2, "worker-b")
    assert await is_empty(broker)


async def test_concurrent_reaps_move_each_job_once(build_broker: BuildBroker) -> None:
    broker = build_broker(BrokerSettings())
    for number in range(20):
        await broker.submit(build_job(f"job-{number}"))
        await claim(broker, lease_seconds=0.001)
    requeued = 0

    async def all_are_back() -> bool:
        nonlocal requeued
        requeued += sum(report.requeued for report in await asyncio.gather(*(broker.reap() for _ in range(5))))
        return (await broker.depth()).running == 0

    await eventually(all_are_back)
    assert requeued == 20
    assert [(await claim(broker)).job.id for _ in range(20)] == [f"job-{number}" for number in range(20)]


# Release


async def test_a_released_job_is_the_next_one_and_its_attempt_is_not_counted(broker: Broker) -> None:
    for name in ("first", "second", "third"):
        await broker.submit(build_job(name))
    first, second = await claim(broker), await claim(broker)
    assert await broker.release(first)
    assert await broker.release(second)
    assert (await job_of(broker, "first")).state == JobState.WAITING
    claimed = [await claim(broker) for _ in range(3)]
    assert [entry.job.id for entry in claimed] == ["first", "second", "third"]
    assert claimed[0].job.attempts == 1


async def test_a_release_wakes_a_waiting_claim(broker: Broker) -> None:
    await broker.submit(build_job("a"))
    held = await claim(broker)
    claiming = asyncio.create_task(broker.claim("w", lease_seconds=LONG_SECONDS, wait_seconds=20))
    await asyncio.sleep(0)
    await broker.release(held)
    assert len(await asyncio.wait_for(claiming, 5)) == 1


async def test_a_released_job_that_was_to_be_canceled_is_canceled(broker: Broker) -> None:
    await broker.submit(build_job("a"))
    held = await claim(broker)
    await broker.cancel("a")
    assert await broker.release(held)
    assert (await job_of(broker, "a")).state == JobState.CANCELED


# Cancel


async def test_canceling_a_waiting_job_ends_it_at_once(broker: Broker) -> None:
    await broker.submit(build_job("a"))
    job = await broker.cancel("a")
    assert job is not None
    assert job.state == JobState.CANCELED
    assert job.finished_at is not None
    assert await broker.claim("w", lease_seconds=1, wait_seconds=0) == ()
    assert await is_empty(broker)


async def test_canceling_a_running_job_asks_its_worker_to_stop(broker: Broker) -> None:
    await broker.submit(build_job("a"))
    claimed = await claim(broker)
    job = await broker.cancel("a")
    assert job is not None
    assert (job.state, job.cancel_requested) == (JobState.RUNNING, True)
    assert await broker.heartbeat(claimed, 2) == Verdict.CANCEL
    assert await broker.finish(claimed, Canceled())
    assert (await job_of(broker, "a")).state == JobState.CANCELED


async def test_canceling_a_finished_job_changes_nothing(broker: Broker) -> None:
    await broker.submit(build_job("a"))
    await broker.finish(await claim(broker), Succeeded(IMAGES))
    before = await broker.get("a")
    assert await broker.cancel("a") == before
    assert before is not None
    assert not before.cancel_requested


async def test_a_canceled_job_whose_worker_is_lost_is_canceled_not_repeated(broker: Broker) -> None:
    await broker.submit(build_job("a"))
    await claim(broker, lease_seconds=SHORT_SECONDS)
    await broker.cancel("a")
    assert await reap_something(broker) == ReapReport(canceled=1)
    assert (await job_of(broker, "a")).state == JobState.CANCELED


# Deadlines


async def test_a_waiting_job_past_its_deadline_fails(broker: Broker) -> None:
    await broker.submit(build_job("a", deadline_seconds=SHORT_SECONDS))
    assert await reap_something(broker) == ReapReport(failed=1)
    job = await job_of(broker, "a")
    assert (job.state, job.error) == (JobState.FAILED, sentences.DEADLINE_PASSED)


async def test_a_job_past_its_deadline_is_not_handed_out(broker: Broker) -> None:
    late = build_job("late", deadline_seconds=-1)
    await broker.submit(late)
    await broker.submit(build_job("in-time", deadline_seconds=LONG_SECONDS))
    assert (await claim(broker)).job.id == "in-time"
    assert (await job_of(broker, "late")).state == JobState.FAILED


async def test_a_running_job_past_its_deadline_is_told_so_by_the_heartbeat(broker: Broker) -> None:
    await broker.submit(build_job("a", deadline_seconds=0.2))
    claimed = await claim(broker)

    async def passed() -> bool:
        return await broker.heartbeat(claimed, 1) == Verdict.DEADLINE_PASSED

    assert await eventually(passed)
    assert await broker.reap() == ReapReport()  # it is the worker's to finish


# Wait


async def test_waiting_clients_hear_of_the_end(build_broker: BuildBroker) -> None:
    gateway = build_broker(BrokerSettings())
    await gateway.submit(build_job("a"))
    await gateway.submit(build_job("b"))
    waits = [asyncio.create_task(gateway.wait(name, 30)) for name in ("a", "a", "b")]
    for _ in range(2):
        await gateway.finish(await claim(gateway), Succeeded(IMAGES))
    done = await asyncio.wait_for(asyncio.gather(*waits), 10)
    assert [(job.id, job.state) for job in done if job] == [("a", JobState.SUCCEEDED)] * 2 + [("b", JobState.SUCCEEDED)]


async def test_a_wait_that_times_out_returns_the_job_as_it_is(broker: Broker) -> None:
    await broker.submit(build_job("a"))
    job = await broker.wait("a", 0.05)
    assert job is not None
    assert job.state == JobState.WAITING


async def test_waiting_for_a_final_job_returns_at_once(broker: Broker) -> None:
    await broker.submit(build_job("a"))
    await broker.cancel("a")
    job = await asyncio.wait_for(broker.wait("a", 60), 5)
    assert job is not None
    assert job.state == JobState.CANCELED


# Depth


async def test_depth_counts_what_waits_and_runs_and_the_oldest_age(broker: Broker) -> None:
    for name in ("a", "b", "c"):
        await broker.submit(build_job(name))
    await claim(broker)

    async def aged() -> QueueDepth | None:
        depth = await broker.depth()
        return depth if depth.oldest_waiting_age_seconds > 0.05 else None

    depth = await eventually(aged)
    assert depth is not None
    assert (depth.waiting, depth.running) == (2, 1)
    assert depth.oldest_waiting_age_seconds < 20


# Outbox

HOOK = WebhookTarget(url="http://receiver.example/hook", events=("start", "completed"))


async def test_webhooks_are_queued_with_the_change_they_tell_of(broker: Broker) -> None:
    await broker.submit(build_job("a", webhook=HOOK))
    await broker.finish(await claim(broker), Failed("no"))
    start = await broker.claim_delivery(lease_seconds=LONG_SECONDS, wait_seconds=0)
    completed = await broker.claim_delivery(lease_seconds=LONG_SECONDS, wait_seconds=0)
    assert start is not None
    assert completed is not None
    assert (start.id, start.event, start.url, start.attempt) == ("a.start", "start", HOOK.url, 1)
    assert start.job.state == JobState.WAITING
    assert (completed.id, completed.event) == ("a.completed", "completed")
    assert completed.job == await broker.get("a")
    assert await broker.claim_delivery(lease_seconds=1, wait_seconds=0) is None


async def test_only_the_events_that_were_asked_for_are_delivered(broker: Broker) -> None:
    await broker.submit(build_job("a", webhook=WebhookTarget(url=HOOK.url, events=("completed",))))
    await broker.submit(build_job("b"))
    assert await broker.claim_delivery(lease_seconds=1, wait_seconds=0) is None
    await broker.cancel("a")
    await broker.cancel("b")
    delivery = await broker.claim_delivery(lease_seconds=1, wait_seconds=0)
    assert delivery is not None
    assert delivery.id == "a.completed"


@pytest.mark.parametrize("end", ["cancel", "deadline", "reap", "release"])
async def test_every_way_to_end_a_job_tells_its_client(build_broker: BuildBroker, end: str) -> None:
    broker = build_broker(BrokerSettings(max_attempts=1))
    deadline_seconds = SHORT_SECONDS if end == "deadline" else None
    await broker.submit(build_job("a", webhook=WebhookTarget(url=HOOK.url), deadline_seconds=deadline_seconds))
    if end == "cancel":
        await broker.cancel("a")
    elif end == "deadline":
        await reap_something(broker)
    elif end == "reap":
        await claim(broker, lease_seconds=SHORT_SECONDS)
        await reap_something(broker)
    else:
        held = await claim(broker)
        await broker.cancel("a")
        await broker.release(held)
    delivery = await broker.claim_delivery(lease_seconds=1, wait_seconds=0)
    assert delivery is not None
    assert delivery.job == await broker.get("a")
    assert delivery.job.state.is_final


async def test_a_delivery_outlives_its_result(build_broker: BuildBroker) -> None:
    broker = build_broker(BrokerSettings(result_ttl_seconds=0.03))
    await broker.submit(build_job("a", webhook=HOOK))
    job = await broker.cancel("a")

    async def is_forgotten() -> bool:
        return await broker.get("a") is None

    await eventually(is_forgotten)
    deliveries = [await broker.claim_delivery(lease_seconds=LONG_SECONDS, wait_seconds=0) for _ in range(2)]
    assert [delivery.id for delivery in deliveries if delivery] == ["a.start", "a.completed"]
    assert deliveries[1] is not None
    assert deliveries[1].job == job


async def test_a_delivery_whose_deliverer_died_is_due_again_with_the_same_id(broker: Broker) -> None:
    await broker.submit(build_job("a", webhook=WebhookTarget(url=HOOK.url)))
    await broker.cancel("a")
    first = await broker.claim_delivery(lease_seconds=SHORT_SECONDS, wait_seconds=0)
    second = await broker.claim_delivery(lease_seconds=LONG_SECONDS, wait_seconds=10)
    assert first is not None
    assert second is not None
    assert (first.id, first.attempt, second.id, second.attempt) == ("a.completed", 1, "a.completed", 2)
    await broker.postpone_delivery(first, 0)  # too late: another has it
    assert await broker.claim_delivery(lease_seconds=LONG_SECONDS, wait_seconds=0) is None


async def test_a_postponed_delivery_is_due_later_and_a_settled_one_never(broker: Broker) -> None:
    await broker.submit(build_job("a", webhook=WebhookTarget(url=HOOK.url)))
    await broker.cancel("a")
    delivery = await broker.claim_delivery(lease_seconds=LONG_SECONDS, wait_seconds=0)
    assert delivery is not None
    await broker.postpone_delivery(delivery, 0.2)
    assert await broker.claim_delivery(lease_seconds=LONG_SECONDS, wait_seconds=0) is None
    again = await broker.claim_delivery(lease_seconds=SHORT_SECONDS, wait_seconds=10)
    assert again is not None
    assert again.attempt == 2
    await broker.settle_delivery(again)
    assert await broker.claim_delivery(lease_seconds=1, wait_seconds=2 * SHORT_SECONDS) is None


async def test_a_waiting_deliverer_is_woken(broker: Broker) -> None:
    claiming = asyncio.create_task(broker.claim_delivery(lease_seconds=LONG_SECONDS, wait_seconds=20))
    await asyncio.sleep(0)
    await broker.submit(build_job("a", webhook=HOOK))
    delivery = await asyncio.wait_for(claiming, 5)
    assert delivery is not None


# The server


async def test_ping_returns(broker: Broker) -> None:
    await broker.ping()
