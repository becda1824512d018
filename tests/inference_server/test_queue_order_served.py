"""A burst that nobody could serve in time, and what comes after it, from the gateway's middle through the stores.

Workers are stood in for: they claim and finish by a clock that moves from one event to the next, Redis' own among them.
"""

import heapq
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from easel_contract.gateway_config import GatewayConfig, QueueConfig, QueueOrder
from easel_server.stores.jobs.interface import Claim, JobBounds
from easel_server.stores.jobs.redis import RedisJobs
from easel_server.stores.opening import Stores, open_memory_stores, open_stores

from tests.inference_server.api.serving import IDENTITY
from tests.inference_server.api.submitting import Submitting
from tests.support.movable_clock import MovableClock
from tests.support.redis_server import RedisServer
from tests.support.stored_images import succeed

TARGET_SECONDS = 30.0
BOUND_SECONDS = 90 + 2 * TARGET_SECONDS  # a cold start and two targets
WORK_SECONDS = 2.0
PODS = 2
BURST = 150  # two and a half minutes of both pods
QUIET_AFTER_SECONDS = 31.0  # by then none of the burst can be started in time any more
STEADY_SECONDS = 4.0
STEADY_ENDS_SECONDS = 240.0
BEFORE_THE_BOUND_SECONDS = 120.0


@dataclass
class Course:
    """What came when, and when it was claimed and finished, in seconds since the burst."""

    arrived: dict[str, float] = field(default_factory=dict)
    claimed: dict[str, float] = field(default_factory=dict)
    finished: dict[str, float] = field(default_factory=dict)

    def latency_of(self, name: str) -> float:
        return self.finished[name] - self.arrived[name]

    def is_late(self, name: str) -> bool:
        return self.latency_of(name) > TARGET_SECONDS + 0.001  # floating point

    @property
    def burst(self) -> list[str]:
        return [name for name in self.arrived if name.startswith("burst")]

    @property
    def steady(self) -> list[str]:
        return [name for name in self.arrived if name.startswith("steady")]


class Fleet:
    """Pods that take one job at a time, of ``WORK_SECONDS`` each."""

    def __init__(self, submitting: Submitting, clock: MovableClock) -> None:
        self._submitting = submitting
        self._clock = clock
        self._now = 0.0
        self._busy: list[tuple[float, str, Claim]] = []
        self.course = Course()

    async def run(self, arrivals: list[tuple[float, str]]) -> Course:
        """Until everything is finished."""
        waiting = sorted(arrivals, key=lambda arrival: arrival[0])
        while waiting or self._busy:
            is_arrival = bool(waiting) and (not self._busy or waiting[0][0] < self._busy[0][0])
            await self._move(waiting[0][0] if is_arrival else self._busy[0][0])
            if is_arrival:
                _, name = waiting.pop(0)
                self.course.arrived[name] = self._now
                await self._submitting.submit(job_id=name)
            else:
                _, name, claim = heapq.heappop(self._busy)
                assert await succeed(self._submitting.stores.jobs, claim, (b"image",), generated_by=IDENTITY)
                self.course.finished[name] = self._now
            if not (waiting and waiting[0][0] == self._now):
                await self._claim()
        return self.course

    async def _move(self, now: float) -> None:
        await self._clock.move(now - self._now)
        self._now = now

    async def _claim(self) -> None:
        jobs = self._submitting.stores.jobs
        while len(self._busy) < PODS:
            claims = await jobs.claim("pod", [IDENTITY.key], lease_seconds=1e6, wait_seconds=0)
            if not claims:
                return
            (claim,) = claims
            self.course.claimed[claim.job.id] = self._now
            heapq.heappush(self._busy, (self._now + WORK_SECONDS, claim.job.id, claim))


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
async def clocked(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Stores, MovableClock]]:
    clock = MovableClock()
    if request.param == "memory":
        yield open_memory_stores(JobBounds(), clock=clock), clock
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    stores = open_stores(server.url, namespace=uuid.uuid4().hex, service="sd", bounds=JobBounds())
    assert isinstance(stores.jobs, RedisJobs)
    with clock.shown(stores.jobs):
        await clock.move()
        yield stores, clock
        await clock.hide()
    await stores.close()


async def serve(clocked: tuple[Stores, MovableClock], order: QueueOrder) -> Course:
    stores, clock = clocked
    queue = QueueConfig(target_seconds=TARGET_SECONDS, cold_start_seconds=90, order=order)
    submitting = Submitting(GatewayConfig(), gpu_seconds=WORK_SECONDS, queue=queue, stores=stores)
    arrivals = [(0.0, f"burst-{number}") for number in range(BURST)]
    count = int((STEADY_ENDS_SECONDS - QUIET_AFTER_SECONDS) / STEADY_SECONDS)
    arrivals += [(QUIET_AFTER_SECONDS + STEADY_SECONDS * number, f"steady-{number}") for number in range(count)]
    return await Fleet(submitting, clock).run(arrivals)


async def test_after_a_lost_burst_requests_are_in_time_and_the_burst_waits_for_no_more_than_its_bound(
    clocked: tuple[Stores, MovableClock],
) -> None:
    course = await serve(clocked, QueueOrder.TARGET_FIRST)
    early = [name for name in course.steady if course.arrived[name] < BEFORE_THE_BOUND_SECONDS]
    assert len(early) > 20
    assert [name for name in early if course.is_late(name)] == []
    in_time = [name for name in course.burst if not course.is_late(name)]
    assert len(in_time) == PODS * TARGET_SECONDS / WORK_SECONDS, "as many as there was time for"
    left = [name for name in course.burst if course.claimed[name] >= BOUND_SECONDS]
    assert left, "the bound was never reached: this says nothing of it"
    first_steady = min(course.claimed[name] for name in course.steady if course.claimed[name] >= BOUND_SECONDS)
    assert max(course.claimed[name] for name in left) <= first_steady, "overtaken behind its bound"
    longest = max(map(course.latency_of, course.burst))
    assert longest <= BOUND_SECONDS + (len(left) / PODS + 1) * WORK_SECONDS


async def test_first_come_first_served_makes_late_what_comes_after_a_lost_burst(
    clocked: tuple[Stores, MovableClock],
) -> None:
    course = await serve(clocked, QueueOrder.FIRST_COME_FIRST_SERVED)
    early = [name for name in course.steady if course.arrived[name] < BEFORE_THE_BOUND_SECONDS]
    assert [name for name in early if not course.is_late(name)] == []
    assert sorted(course.claimed, key=lambda name: (course.claimed[name], course.arrived[name])) == list(course.claimed)


async def test_either_order_does_the_same_work_in_the_same_time() -> None:
    """What one order saves isn't paid for by pods: none stands idle while something waits."""
    ends = {}
    for order in QueueOrder:
        clock = MovableClock()
        course = await serve((open_memory_stores(JobBounds(), clock=clock), clock), order)
        ends[order] = max(course.finished.values())
        assert course.finished.keys() == course.arrived.keys()
    assert len(set(ends.values())) == 1
