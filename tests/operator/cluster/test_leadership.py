"""At most one replica writes, whatever the clocks and the network do."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from easel_operator.cluster.client import ApiUnreachableError
from easel_operator.cluster.leadership import Leadership, LeadershipLostError
from easel_operator.objects import Json

from tests.operator.fake_api import FakeApi
from tests.support.eventually import eventually

PATH = "/apis/coordination.k8s.io/v1/namespaces/easel/leases/easel-operator"
DURATION_SECONDS = 0.5


class Clock:
    """A monotonic clock that tests move."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def build(api: FakeApi, identity: str, monotonic: Clock) -> Leadership:
    return Leadership(
        api,
        namespace="easel",
        identity=identity,
        duration_seconds=DURATION_SECONDS,
        clock=lambda: datetime(2026, 1, 1, tzinfo=UTC),
        monotonic=monotonic,
    )


def holder(api: FakeApi) -> str:
    return str(api.objects[PATH]["spec"]["holderIdentity"])


async def until_leader(candidate: Leadership) -> None:
    async with asyncio.timeout(5):
        await candidate.wait_until_leader()


async def until_requests(api: FakeApi, number: int) -> None:
    """Wait until as many more requests were made."""
    made = len(api.requests)
    await eventually(lambda: asyncio.sleep(0, len(api.requests) >= made + number))


async def test_the_first_leads_and_the_second_waits_until_it_is_released() -> None:
    api, clock = FakeApi(), Clock()
    first, second = build(api, "a", clock), build(api, "b", clock)
    run_first = asyncio.create_task(first.run())
    await until_leader(first)
    run_second = asyncio.create_task(second.run())
    await until_requests(api, 6)
    assert (first.is_leader(), second.is_leader(), holder(api)) == (True, False, "a")
    run_first.cancel()
    await first.release()
    await until_leader(second)
    assert (first.is_leader(), holder(api)) == (False, "b")
    run_second.cancel()


async def test_a_silent_holder_is_replaced_when_its_lease_has_been_seen_unchanged_for_its_duration() -> None:
    api, clock = FakeApi(), Clock()
    crashed = asyncio.create_task(build(api, "a", clock).run())
    await eventually(lambda: asyncio.sleep(0, PATH in api.objects))
    crashed.cancel()
    second = build(api, "b", clock)
    run = asyncio.create_task(second.run())
    await until_requests(api, 3)
    assert not second.is_leader(), "the lease may still be held"
    clock.seconds += DURATION_SECONDS * 3  # whole seconds in the record: at least one
    await until_leader(second)
    assert api.objects[PATH]["spec"]["leaseTransitions"] == 2
    run.cancel()


async def test_a_holder_that_can_t_renew_gives_up_before_others_may_take_over() -> None:
    api, clock = FakeApi(), Clock()
    leader = build(api, "a", clock)
    run = asyncio.create_task(leader.run())
    await until_leader(leader)
    api.fault = lambda method, path: ApiUnreachableError(method, path, TimeoutError())
    clock.seconds += DURATION_SECONDS * 0.9
    with pytest.raises(LeadershipLostError, match="a couldn't renew Lease easel/easel-operator"):
        async with asyncio.timeout(5):
            await run


class SilentApi(FakeApi):
    """An API server that stops answering without closing connections, while time passes."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.is_silent = False
        self._clock = clock

    async def request(self, method: str, path: str, **options: Any) -> Json:
        if self.is_silent:
            self._clock.seconds += DURATION_SECONDS / 5
            await asyncio.Event().wait()
        return await super().request(method, path, **options)


async def test_a_holder_that_gets_no_answer_gives_up_before_its_lease_ends() -> None:
    clock = Clock()
    api = SilentApi(clock)
    leader = build(api, "a", clock)
    run = asyncio.create_task(leader.run())
    await until_leader(leader)
    api.is_silent = True
    with pytest.raises(LeadershipLostError):
        async with asyncio.timeout(10):
            await run
    assert clock.seconds < DURATION_SECONDS


async def test_of_two_that_take_an_expired_lease_at_once_the_api_server_lets_one() -> None:
    api, clock = FakeApi(), Clock()
    dead = build(api, "dead", clock)
    run_dead = asyncio.create_task(dead.run())
    await until_leader(dead)
    run_dead.cancel()
    rivals = [build(api, name, clock) for name in ("a", "b")]
    runs = [asyncio.create_task(rival.run()) for rival in rivals]
    await until_requests(api, 4)
    clock.seconds += DURATION_SECONDS * 3
    await eventually(lambda: asyncio.sleep(0, any(rival.is_leader() for rival in rivals)))
    assert sum(rival.is_leader() for rival in rivals) == 1
    for run in runs:
        run.cancel()


async def test_a_fault_of_our_own_costs_the_lease_only_when_its_deadline_has_passed() -> None:
    api, clock = FakeApi(), Clock()
    leader = build(api, "a", clock)
    running = asyncio.create_task(leader.run())
    await until_leader(leader)
    api.fault = lambda _method, _path: KeyError("nobody thought of it")
    await until_requests(api, 3)
    assert not running.done()
    clock.seconds += DURATION_SECONDS
    with pytest.raises(LeadershipLostError):
        await asyncio.wait_for(running, 5)


async def test_a_standby_looks_again_at_the_moment_when_the_lease_expires() -> None:
    """Not at its next turn: of a fail-over's 15 s at the most, that would be another second or two."""
    api, clock = FakeApi(), Clock()
    seconds = 10.0
    holder, standby = (
        Leadership(
            api,
            namespace="easel",
            identity=identity,
            duration_seconds=seconds,
            clock=lambda: datetime(2026, 1, 1, tzinfo=UTC),
            monotonic=clock,
        )
        for identity in ("a", "b")
    )
    assert await holder._try()
    assert not await standby._try()
    assert standby._find_pause(seconds / 5) == 1.0, "a lease that is released is seen within a second"
    clock.seconds = seconds - 0.25
    assert not await standby._try()
    assert standby._find_pause(seconds / 5) == 0.25
