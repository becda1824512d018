"""Which of a customer's jobs is next: those that can still be in time before those that can't, for a while."""

import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from easel_contract.server_config import Priority
from easel_server.stores.jobs.fair_queue import LATE_ENTRIES
from easel_server.stores.jobs.interface import JobBounds, Jobs, Joining, QueueTerms
from easel_server.stores.jobs.redis import RedisJobs
from easel_server.stores.opening import open_memory_stores, open_stores

from tests.inference_server.stores.steps import LONG_SECONDS, claim, claim_ids, claim_nothing
from tests.support.jobs import build_job
from tests.support.movable_clock import MovableClock
from tests.support.redis_server import RedisServer

IN_TIME = QueueTerms(start_within_seconds=3600.0, overtaken_within_seconds=7200.0)
LATE = QueueTerms(start_within_seconds=-1.0, overtaken_within_seconds=7200.0)
BOUND_SECONDS = 150.0
SMALL = Joining("64x64", Priority.NORMAL)


async def submit(jobs: Jobs, name: str, terms: QueueTerms | None, **values: Any) -> None:
    await jobs.submit(build_job(name, **values), terms=terms)


async def claim_batch(jobs: Jobs, max_jobs: int, **options: Any) -> list[str]:
    claims = await jobs.claim(
        "w", lease_seconds=LONG_SECONDS, wait_seconds=0, max_jobs=max_jobs, max_images=8, **options
    )
    return [each.job.id for each in claims]


async def test_what_can_still_be_in_time_goes_before_older_work_that_cannot(jobs: Jobs) -> None:
    for name, terms in (("late-0", LATE), ("timely-0", IN_TIME), ("late-1", LATE), ("timely-1", IN_TIME)):
        await submit(jobs, name, terms)
    assert await claim_ids(jobs, 4) == ["timely-0", "timely-1", "late-0", "late-1"]
    assert await claim_nothing(jobs)


async def test_the_oldest_goes_first_while_it_is_in_time_itself(jobs: Jobs) -> None:
    for number, seconds in enumerate((3600.0, 60.0, 7200.0)):
        await submit(jobs, f"job-{number}", QueueTerms(seconds, 9000.0))
    assert await claim_ids(jobs, 3) == ["job-0", "job-1", "job-2"]


async def test_a_late_job_that_has_waited_for_its_bound_is_overtaken_no_more(jobs: Jobs) -> None:
    await submit(jobs, "late", QueueTerms(start_within_seconds=-1.0, overtaken_within_seconds=0.0))
    await submit(jobs, "timely", IN_TIME)
    assert await claim_ids(jobs, 2) == ["late", "timely"]


async def test_jobs_without_terms_are_taken_first_come_first_served(jobs: Jobs) -> None:
    for name, terms in (("plain-0", None), ("late", LATE), ("plain-1", None), ("timely", IN_TIME), ("plain-2", None)):
        await submit(jobs, name, terms)
    assert await claim_ids(jobs, 5) == ["plain-0", "timely", "late", "plain-1", "plain-2"]


async def test_a_customers_late_work_yields_to_its_own_only(jobs: Jobs) -> None:
    """Another customer's turn is neither taken nor given away."""
    for number in range(4):
        await submit(jobs, f"late-{number}", LATE, owner="late")
        await submit(jobs, f"timely-{number}", IN_TIME, owner="timely")
    assert [job_id.split("-")[0] for job_id in await claim_ids(jobs, 8)] == ["late", "timely"] * 4


@pytest.mark.parametrize("terms", [None, IN_TIME, LATE], ids=["no terms", "in time", "late"])
async def test_a_flood_gains_nothing_by_being_in_time_and_loses_nothing_by_being_late(
    jobs: Jobs, terms: QueueTerms | None
) -> None:
    for number in range(60):
        await submit(jobs, f"flood-{number}", terms, owner="flood")
    for number in range(20):
        await submit(jobs, f"other-{number}", LATE if number % 2 else IN_TIME, owner="other", weight=3)
    owners = Counter(job_id.split("-")[0] for job_id in await claim_ids(jobs, 20))
    assert owners == Counter(flood=5, other=15)


async def test_who_comes_later_gains_nothing_on_a_customer_whose_late_work_yields(jobs: Jobs) -> None:
    """Time goes on in the schedule with what overtakes, too; else a newcomer would have had nothing since it began."""
    await submit(jobs, "steady-late", LATE, owner="steady")
    for number in range(40):
        await submit(jobs, f"steady-{number}", IN_TIME, owner="steady")
    await claim_ids(jobs, 20)
    for number in range(20):
        await submit(jobs, f"newcomer-{number}", IN_TIME, owner="newcomer")
    owners = Counter(job_id.split("-")[0] for job_id in await claim_ids(jobs, 20))
    assert owners == Counter(steady=10, newcomer=10)


async def test_a_higher_priority_goes_first_however_late_it_is(jobs: Jobs) -> None:
    await submit(jobs, "low", IN_TIME, priority=Priority.LOW)
    await submit(jobs, "normal", IN_TIME)
    await submit(jobs, "high-late", LATE, priority=Priority.HIGH)
    await submit(jobs, "high-timely", IN_TIME, priority=Priority.HIGH)
    assert await claim_ids(jobs, 4) == ["high-timely", "high-late", "normal", "low"]


async def test_what_was_taken_and_released_goes_first_late_or_not(jobs: Jobs) -> None:
    """Its work has begun, and it was charged."""
    await submit(jobs, "begun", LATE)
    held = await claim(jobs)
    await submit(jobs, "timely", IN_TIME)
    assert await jobs.release(held)
    assert await claim_ids(jobs, 2) == ["begun", "timely"]


async def test_a_batch_takes_along_what_is_in_time_before_what_is_late(jobs: Jobs) -> None:
    for number in range(20):
        await submit(jobs, f"late-{number}", LATE)
    for number in range(3):
        await submit(jobs, f"timely-{number}", IN_TIME)
    assert await claim_batch(jobs, 2) == ["timely-0", "timely-1"]
    assert await claim_batch(jobs, 3) == ["timely-2", "late-0", "late-1"]
    assert await claim_batch(jobs, 2) == ["late-2", "late-3"]


async def test_behind_a_late_job_of_another_size_those_join_that_are_in_time(jobs: Jobs) -> None:
    await submit(jobs, "late-large", LATE, width_pixels=128)
    await submit(jobs, "timely", IN_TIME)
    assert await claim_batch(jobs, 4, joining=SMALL) == ["timely"]
    assert await claim_batch(jobs, 4, joining=SMALL) == [], "the late one is next, and is of another size"
    await submit(jobs, "another", IN_TIME)
    assert await claim_batch(jobs, 4, joining=SMALL) == ["another"]


async def test_behind_one_that_has_waited_for_its_bound_nobody_joins(jobs: Jobs) -> None:
    """So it isn't overtaken for ever by batches of another size."""
    await submit(jobs, "late-large", QueueTerms(-1.0, 0.0), width_pixels=128)
    await submit(jobs, "timely", IN_TIME)
    assert await claim_batch(jobs, 4, joining=SMALL) == []
    assert await claim_batch(jobs, 4) == ["late-large"]


async def test_a_late_run_that_a_timely_job_joins_is_in_time_again(jobs: Jobs) -> None:
    """Else an equal request would wait longer than another one that came with it."""
    for name in ("late-0", "late-1", "late-2"):
        await jobs.submit(build_job(name), terms=LATE, flight_key=name)
    await submit(jobs, "timely", IN_TIME)
    assert await claim_ids(jobs, 1) == ["timely"]
    await jobs.submit(build_job("follower"), terms=IN_TIME, flight_key="late-1")
    await submit(jobs, "later", IN_TIME)
    assert await claim_ids(jobs, 4) == ["late-1", "later", "late-0", "late-2"]


async def test_a_late_run_that_is_lifted_to_a_higher_priority_is_in_time_there(jobs: Jobs) -> None:
    await jobs.submit(build_job("lifted"), terms=LATE, flight_key="one")
    await submit(jobs, "high-0", LATE, priority=Priority.HIGH)
    await submit(jobs, "high-1", IN_TIME, priority=Priority.HIGH)
    assert await claim_ids(jobs, 1) == ["high-1"]
    await jobs.submit(build_job("follower", priority=Priority.HIGH), terms=IN_TIME, flight_key="one")
    await submit(jobs, "high-2", IN_TIME, priority=Priority.HIGH)
    assert await claim_ids(jobs, 3) == ["lifted", "high-2", "high-0"]


async def test_a_canceled_job_holds_up_nobody(jobs: Jobs) -> None:
    for name, terms in (("late", LATE), ("canceled", IN_TIME), ("timely", IN_TIME)):
        await submit(jobs, name, terms)
    await jobs.cancel("canceled")
    assert await claim_ids(jobs, 1) == ["timely"]
    await jobs.cancel("late")
    assert await claim_nothing(jobs)


async def test_more_late_jobs_than_one_look_passes_delay_a_timely_one_by_a_claim(jobs: Jobs) -> None:
    """No claim takes long, however many are late; what it has looked at, the next one doesn't look at again."""
    for number in range(LATE_ENTRIES + 1):
        await submit(jobs, f"late-{number}", LATE)
    await submit(jobs, "timely", IN_TIME)
    assert await claim_ids(jobs, 3) == ["late-0", "timely", "late-1"]


# As time goes by


@dataclass(frozen=True)
class Moving:
    """A store whose time a test moves."""

    jobs: Jobs
    clock: MovableClock


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
async def moving(request: pytest.FixtureRequest) -> AsyncIterator[Moving]:
    clock = MovableClock()
    if request.param == "memory":
        yield Moving(open_memory_stores(JobBounds(), clock=clock).jobs, clock)
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    stores = open_stores(server.url, namespace=uuid.uuid4().hex, service="sd", bounds=JobBounds())
    assert isinstance(stores.jobs, RedisJobs)
    with clock.shown(stores.jobs):
        await clock.move()
        yield Moving(stores.jobs, clock)
    await stores.close()


async def test_a_job_is_in_time_up_to_its_last_moment_overtaken_from_then_on_and_first_after_its_bound(
    moving: Moving,
) -> None:
    jobs, clock = moving.jobs, moving.clock
    for number in range(6):
        await submit(jobs, f"old-{number}", QueueTerms(20.0, BOUND_SECONDS))
    await clock.move(20.0)
    for number in range(6):
        await submit(jobs, f"new-{number}", QueueTerms(1000.0, BOUND_SECONDS))
    assert await claim_ids(jobs, 2) == ["old-0", "old-1"]
    await clock.move(0.000_001)
    assert await claim_ids(jobs, 2) == ["new-0", "new-1"]
    await clock.move(BOUND_SECONDS - 20.0 - 0.000_002)
    assert await claim_ids(jobs, 1) == ["new-2"]
    await clock.move(0.000_001)
    assert await claim_ids(jobs, 4) == ["old-2", "old-3", "old-4", "old-5"]
    assert await claim_ids(jobs, 3) == ["new-3", "new-4", "new-5"]


async def test_a_shorter_bound_holds_although_older_jobs_came_with_a_longer_one(moving: Moving) -> None:
    """Whoever shortens it does so since requests wait for too long: what comes then isn't held up by theirs."""
    jobs, clock = moving.jobs, moving.clock
    for number in range(3):
        await submit(jobs, f"old-{number}", QueueTerms(-1.0, 86_400.0))
    await submit(jobs, "short", QueueTerms(-1.0, 60.0))
    for number in range(4):
        await submit(jobs, f"timely-{number}", QueueTerms(3600.0, 60.0))
    await clock.move(59.0)
    assert await claim_ids(jobs, 2) == ["timely-0", "timely-1"]
    await clock.move(1.0)
    found = [await jobs.position(name) for name in ("old-0", "old-2", "short", "timely-2", "timely-3")]
    assert [position and position.jobs_ahead for position in found] == [0, 2, 3, 4, 5]
    assert await claim_batch(jobs, 2) == ["old-0", "old-1"]
    assert await claim_ids(jobs, 4) == ["old-2", "short", "timely-2", "timely-3"]
    for name in ("old", "late"):
        await submit(jobs, name, QueueTerms(-1.0, 86_400.0))
    await submit(jobs, "timely", QueueTerms(3600.0, 86_400.0))
    assert await claim_ids(jobs, 3) == ["timely", "old", "late"], "nothing is left of the shorter one"


@pytest.mark.parametrize("joining", [None, SMALL], ids=["idle", "joining"])
async def test_behind_thousands_that_nobody_waits_for_any_more_the_next_is_found(
    moving: Moving, joining: Joining | None
) -> None:
    """A lost burst of clients with a deadline."""
    jobs = moving.jobs
    for number in range(450):
        job = build_job(f"burst-{number}")
        job = job.model_copy(update={"deadline_at": job.submitted_at + timedelta(seconds=10)})
        await jobs.submit(job, terms=QueueTerms(5.0, BOUND_SECONDS))
    await moving.clock.move(20.0)
    await submit(jobs, "timely", IN_TIME)
    await submit(jobs, "behind", LATE)
    assert await claim_batch(jobs, 1, joining=joining) == ["timely"]
    assert await claim_batch(jobs, 1, joining=joining) == ["behind"]
    assert await claim_nothing(jobs)


@pytest.mark.redis
async def test_one_call_of_redis_ends_a_bounded_number_of_jobs_that_nobody_waits_for(redis_server: RedisServer) -> None:
    """Else all others would wait while it ends a burst that is lost: a second for ten thousand."""
    stores, clock = (
        open_stores(redis_server.url, namespace=uuid.uuid4().hex, service="sd", bounds=JobBounds()),
        MovableClock(),
    )
    jobs = stores.jobs
    assert isinstance(jobs, RedisJobs)
    ended: list[int] = []
    script = jobs._connection.script

    async def watch(name: str, *arguments: Any) -> Any:
        before = (await jobs.depth()).waiting if name == "jobs/claim" else 0
        reply = await script(name, *arguments)
        if name == "jobs/claim":
            ended.append(before - (await jobs.depth()).waiting)
        return reply

    with clock.shown(jobs), pytest.MonkeyPatch.context() as patch:
        await clock.move()
        for number in range(450):
            job = build_job(f"burst-{number}")
            await jobs.submit(job.model_copy(update={"deadline_at": job.submitted_at + timedelta(seconds=10)}))
        await clock.move(20.0)
        patch.setattr(jobs._connection, "script", watch)
        assert await claim_nothing(jobs)
    assert ended == [100, 100, 100, 100, 50]
    await stores.close()


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_bounds_jobs_came_with_a_shorter_one_than_before_holds_from_then_on(seed: int) -> None:
    chance, clock = random.Random(seed), MovableClock()  # noqa: S311
    jobs, seconds, first_from = open_memory_stores(JobBounds(), clock=clock).jobs, 0.0, dict[str, float]()
    overtook = 0
    for step in range(300):
        bound = 5000.0 if step < 100 else 60.0
        for _ in range(chance.choice((0, 1, 2))):
            name = f"{len(first_from):04}-{step}"
            await submit(jobs, name, QueueTerms(chance.choice((-1.0, 20.0, 40.0)), bound), gpu_seconds=2.0)
            first_from[name] = seconds + bound
        for claimed in await jobs.claim("w", lease_seconds=9999, wait_seconds=0):
            name = claimed.job.id
            del first_from[name]
            overtaken = [other for other in first_from if other < name]
            overtook += len(overtaken)
            assert [other for other in overtaken if first_from[other] <= seconds] == [], f"seed {seed}, {name}"
        step_seconds = chance.choice((1.0, 3.0))
        await clock.move(step_seconds)
        seconds += step_seconds
    assert overtook, "nobody was overtaken: this says nothing of bounds"


async def test_a_burst_that_is_lost_makes_nobody_behind_it_late(moving: Moving) -> None:
    """One worker, three seconds a job, a target of thirty; a hundred at once, then one every four seconds."""
    work, target = 3.0, 30.0
    submitted: dict[str, float] = {}
    started: dict[str, float] = {}

    async def put(name: str, now: float) -> None:
        submitted[name] = now
        await submit(moving.jobs, name, QueueTerms(target - work, BOUND_SECONDS), gpu_seconds=work)

    now, coming = 0.0, 1
    for number in range(100):
        await put(f"burst-{number}", now)
    while len(started) < 100 + 100:
        while coming <= 100 and coming * 4.0 <= now:
            await put(f"steady-{coming}", now)
            coming += 1
        for claimed in await moving.jobs.claim("w", lease_seconds=3600, wait_seconds=0):
            started[claimed.job.id] = now
        await moving.clock.move(work)
        now += work
    late = [name for name in started if started[name] + work - submitted[name] > target]
    in_first_bound = [name for name in late if name.startswith("steady") and submitted[name] < BOUND_SECONDS - target]
    assert in_first_bound == []
    assert len([name for name in late if name.startswith("burst")]) == 90
    burst_waits = [started[name] - submitted[name] for name in started if name.startswith("burst")]
    assert max(burst_waits) <= BOUND_SECONDS + 100 * work


@pytest.mark.parametrize("seed", range(4))
async def test_positions_are_the_order_in_which_jobs_are_then_claimed(moving: Moving, seed: int) -> None:
    """Of jobs that take equally long, under the terms of one service; what comes next is told what it will meet."""
    chance = random.Random(seed)  # noqa: S311 (a history, not secrets)
    jobs, number = moving.jobs, 0
    waiting: list[str] = []
    overtook = 0
    for _ in range(40):
        for _ in range(chance.randrange(3)):
            job, terms = build_job(f"job-{number:03}", gpu_seconds=2.0), QueueTerms(20.0, 50.0)
            estimate = await jobs.estimate_position(job, terms)
            reply = await jobs.submit(job, terms=terms)
            assert reply.position == estimate == await jobs.position(job.id), f"seed {seed}, {job.id}"
            waiting.append(job.id)
            number += 1
        positions = {}
        for name in waiting:
            position = await jobs.position(name)
            assert position is not None
            assert position.gpu_seconds_ahead == pytest.approx(2.0 * position.jobs_ahead, abs=1e-4)
            positions[name] = position.jobs_ahead
        assert sorted(positions.values()) == list(range(len(waiting))), f"seed {seed}"
        for claims in range(chance.randrange(2)):
            if waiting:
                (taken,) = await claim_ids(jobs, 1)
                assert positions[taken] == claims, f"seed {seed}"
                overtook += taken != waiting[0]
                waiting.remove(taken)
        await moving.clock.move(chance.choice((1.0, 4.0)))
    assert overtook, "nobody was late: this says nothing of them"
