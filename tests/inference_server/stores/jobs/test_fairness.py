"""How customers share the workers, in all stores. Counted in claims: no clock is involved."""

from collections import Counter

import pytest
from easel_contract.server_config import Priority
from easel_server.stores.jobs.interface import Jobs, QueuePosition

from tests.inference_server.stores.steps import claim, claim_ids, claim_nothing, run_next
from tests.support.jobs import build_job


async def submit_many(jobs: Jobs, owner: str, count: int, *, weight: int = 1, gpu_seconds: float = 1.0) -> None:
    for number in range(count):
        job = build_job(f"{owner}-{number:03}", owner=owner, weight=weight, gpu_seconds=gpu_seconds)
        await jobs.submit(job)


async def owners_of_next(jobs: Jobs, count: int) -> Counter[str]:
    return Counter(job_id.split("-")[0] for job_id in await claim_ids(jobs, count))


@pytest.mark.parametrize("served_before", [0, 1, 7])
async def test_a_single_job_starts_within_two_service_times_beside_five_hundred(jobs: Jobs, served_before: int) -> None:
    await submit_many(jobs, "crowd", 500)
    await claim_ids(jobs, served_before)
    await jobs.submit(build_job("single", owner="other"))
    assert "single" in await claim_ids(jobs, 2)


async def test_a_single_job_starts_as_soon_when_the_crowd_has_more_weight_and_smaller_jobs(jobs: Jobs) -> None:
    await submit_many(jobs, "crowd", 500, weight=4, gpu_seconds=0.25)
    await claim_ids(jobs, 5)
    await jobs.submit(build_job("single", owner="other", gpu_seconds=64.0))
    assert "single" in await claim_ids(jobs, 2)


async def test_customers_share_by_weight(jobs: Jobs) -> None:
    await submit_many(jobs, "gold", 60, weight=3)
    await submit_many(jobs, "basic", 60)
    assert await owners_of_next(jobs, 40) == Counter(gold=30, basic=10)


async def test_customers_share_gpu_time_and_not_requests(jobs: Jobs) -> None:
    await submit_many(jobs, "large", 20, gpu_seconds=4.0)
    await submit_many(jobs, "small", 60, gpu_seconds=1.0)
    assert await owners_of_next(jobs, 50) == Counter(large=10, small=40)


async def test_work_that_was_canceled_is_not_held_against_its_owner(jobs: Jobs) -> None:
    await submit_many(jobs, "changeable", 500)
    for number in range(500):
        await jobs.cancel(f"changeable-{number:03}")
    await submit_many(jobs, "steady", 5)
    await jobs.submit(build_job("next", owner="changeable"))
    assert "next" in await claim_ids(jobs, 2)
    assert len(await claim_ids(jobs, 4)) == 4
    assert await claim_nothing(jobs)


async def test_work_that_was_canceled_after_its_worker_released_it_is_not_held_against_its_owner(
    jobs: Jobs,
) -> None:
    await jobs.submit(build_job("huge", owner="changeable", gpu_seconds=1000.0))
    await submit_many(jobs, "steady", 5)
    assert await jobs.release(await claim(jobs))
    await jobs.submit(build_job("next", owner="changeable"))
    await jobs.cancel("huge")
    assert "next" in await claim_ids(jobs, 2)


async def test_a_pause_earns_no_credit(jobs: Jobs) -> None:
    await submit_many(jobs, "steady", 100)
    await jobs.submit(build_job("resting-first", owner="resting"))
    await claim_ids(jobs, 50)
    await submit_many(jobs, "resting", 20)
    assert await owners_of_next(jobs, 20) == Counter(steady=10, resting=10)


async def test_what_a_customer_had_counts_while_others_are_busy(jobs: Jobs) -> None:
    """A customer with one large job at a time gets no more than the one with many small ones."""
    await submit_many(jobs, "small", 100, gpu_seconds=1.0)
    await jobs.submit(build_job("large-0", owner="large", gpu_seconds=10.0))
    served: Counter[str] = Counter()
    for number in range(1, 41):
        job = await run_next(jobs)
        served[job.owner] += 1
        if job.owner == "large":
            await jobs.submit(build_job(f"large-{number}", owner="large", gpu_seconds=10.0))
    assert served == Counter(small=36, large=4)


async def test_an_owner_s_name_gives_no_precedence(jobs: Jobs) -> None:
    """Each is new and so has the same start tag: only their age can decide."""
    names = ["zoe", "mia", "adam", "yve", "ben"]
    for name in names:
        await jobs.submit(build_job(f"of-{name}", owner=name))
    assert await claim_ids(jobs, 5) == [f"of-{name}" for name in names]


async def test_higher_priorities_go_first_whoever_owns_them(jobs: Jobs) -> None:
    for priority in (Priority.LOW, Priority.NORMAL, Priority.HIGH):
        for number in range(2):
            await jobs.submit(build_job(f"{priority}-{number}", priority=priority, owner="one"))
    await jobs.submit(build_job("Low-2", priority=Priority.LOW, owner="two"))
    expected = ["High-0", "High-1", "Normal-0", "Normal-1", "Low-0", "Low-2", "Low-1"]
    assert await claim_ids(jobs, 7) == expected


async def test_a_job_that_is_released_goes_before_everybody_of_its_priority(jobs: Jobs) -> None:
    await submit_many(jobs, "one", 3)
    released = await claim(jobs)
    await submit_many(jobs, "two", 3)
    await jobs.submit(build_job("urgent", priority=Priority.HIGH, owner="three"))
    assert await jobs.release(released)
    assert await claim_ids(jobs, 4) == ["urgent", "one-000", "two-000", "one-001"]  # and is not charged again


async def test_a_position_counts_what_goes_before(jobs: Jobs) -> None:
    await submit_many(jobs, "one", 6, gpu_seconds=2.0)
    await submit_many(jobs, "two", 3, gpu_seconds=4.0)
    await jobs.submit(build_job("urgent", owner="three", priority=Priority.HIGH, gpu_seconds=0.5))
    await jobs.submit(build_job("unimportant", owner="three", priority=Priority.LOW))
    names = ["urgent", "one-000", "two-000", "one-001", "one-002", "two-001", "one-003", "one-004"]
    names += ["two-002", "one-005", "unimportant"]
    expected_ahead, ahead = [], 0.0
    for name in names:
        expected_ahead.append(ahead)
        ahead += {"urgent": 0.5, "one": 2.0, "two": 4.0}.get(name.split("-")[0], 0)
    positions = [await jobs.position(name) for name in names]
    assert positions == [QueuePosition(index, expected_ahead[index]) for index in range(len(names))]
    assert await claim_ids(jobs, len(names)) == names
    assert await jobs.position("one-000") is None
    assert await jobs.position("unknown") is None


async def test_a_job_that_was_released_is_ahead_in_positions_too(jobs: Jobs) -> None:
    await submit_many(jobs, "one", 3)
    released = await claim(jobs)
    await jobs.release(released)
    assert [await jobs.position(f"one-{number:03}") for number in range(3)] == [
        QueuePosition(0, 0.0),
        QueuePosition(1, 1.0),
        QueuePosition(2, 2.0),
    ]
