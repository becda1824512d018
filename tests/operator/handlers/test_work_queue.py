"""Each key once, one worker a key, failed ones again after a growing delay."""

import asyncio

import pytest
from easel_operator.handlers import work_queue
from easel_operator.handlers.work_queue import WorkQueue
from easel_operator.objects import ServiceKey

A, B = ServiceKey("ns", "a"), ServiceKey("ns", "b")


async def test_a_key_waits_once() -> None:
    queue = WorkQueue()
    for key in (A, B, A, A):
        queue.add(key)
    assert [await queue.get(), await queue.get()] == [A, B]
    assert len(queue) == 0


async def test_a_key_that_changes_while_it_is_worked_on_comes_again_afterwards() -> None:
    queue = WorkQueue()
    queue.add(A)
    await queue.get()
    queue.add(A)
    queue.add(A)
    assert len(queue) == 0, "a second worker would get the same key"
    queue.done(A)
    assert len(queue) == 1


async def test_failures_wait_longer_each_time_and_a_success_forgets_them() -> None:
    queue = WorkQueue()
    delays = []
    for _ in range(12):
        queue.add(A)
        await queue.get()
        delays.append(queue.retry(A))
    assert 0.25 <= delays[0] <= 0.5
    assert 30 <= delays[-1] <= 60, "the delay has a bound"
    queue.add(A)
    await queue.get()
    queue.done(A)
    queue.add(A)
    await queue.get()
    assert queue.retry(A) <= 0.5


async def test_a_failed_key_comes_back_by_itself() -> None:
    queue = WorkQueue()
    queue.add(A)
    await queue.get()
    queue.retry(A)
    async with asyncio.timeout(2):
        assert await queue.get() == A


async def test_what_is_to_be_looked_at_soon_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_queue, "SOON_SECONDS", 0.01)
    queue = WorkQueue()
    for _ in range(3):
        queue.add_soon(A)
    assert len(queue) == 0
    assert await asyncio.wait_for(queue.get(), 5) == A
    queue.done(A)
    queue.add_soon(B)
    assert await asyncio.wait_for(queue.get(), 5) == B
    assert len(queue) == 0


async def test_a_change_does_not_wait_for_what_is_looked_at_soon_and_takes_it_along() -> None:
    queue = WorkQueue()
    queue.add_soon(A)
    queue.add(A)
    assert queue._ready.get_nowait() == A
    queue.add_soon(B)
    queue._ready.put_nowait(B)
    assert await queue.get() == B
    assert B not in queue._soon, "it is worked on with all that is known"
