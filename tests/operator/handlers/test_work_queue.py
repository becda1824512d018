"""Each key once, one worker a key, failed ones again after a growing delay."""

import asyncio

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
