"""What nobody foresaw in a loop: it goes on, and only one that gets nowhere is for the kubelet to restart."""

import asyncio
from collections.abc import Callable

import pytest
from easel_operator.handlers.loop_guard import MAX_FAULTY_SECONDS, LoopGuard


class Bench:
    """A guard on a clock of its own, and a loop that fails until ``is_broken`` says otherwise."""

    def __init__(self, *, runs_seconds: float, is_broken: Callable[[int], bool]) -> None:
        self.now = 0.0
        self.pauses: list[float] = []
        self.runs = 0
        self.complaints: list[str | None] = []
        self._runs_seconds = runs_seconds
        self._is_broken = is_broken
        self.guard = LoopGuard(monotonic=lambda: self.now, sleep=self._pause)

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds
        self.complaints.append(self.guard.describe_faults())

    async def loop(self) -> None:
        """Runs for a while and breaks, or ends."""
        self.runs += 1
        self.now += self._runs_seconds
        if self._is_broken(self.runs):
            raise RuntimeError("nobody thought of it")


async def test_a_loop_that_meets_something_unforeseen_is_begun_anew_after_growing_pauses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench(runs_seconds=0, is_broken=lambda run: run <= 8)
    await bench.guard.keep_going("list of services", bench.loop)
    assert bench.pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    assert all("list of services" in message for message in caplog.messages)
    assert caplog.records[0].exc_info is not None, "the traceback is in the log"


async def test_a_loop_that_gets_nowhere_for_minutes_is_for_the_kubelet_to_restart() -> None:
    bench = Bench(runs_seconds=0, is_broken=lambda run: run <= 20)
    await bench.guard.keep_going("watch of pods", bench.loop)
    first = next(number for number, complaint in enumerate(bench.complaints) if complaint is not None)
    assert sum(bench.pauses[: first + 1]) > MAX_FAULTY_SECONDS
    assert "watch of pods failed" in (bench.complaints[-1] or "")
    bench.now += 1000
    assert bench.guard.describe_faults() is None, "it has run since"


async def test_a_fault_now_and_then_is_no_reason_to_restart() -> None:
    bench = Bench(runs_seconds=600, is_broken=lambda run: run <= 50)
    await bench.guard.keep_going("watch of pods", bench.loop)
    assert set(bench.pauses) == {1}
    assert set(bench.complaints) == {None}


async def test_a_guarded_loop_can_be_cancelled() -> None:
    task = asyncio.create_task(LoopGuard(monotonic=lambda: 0.0).keep_going("loop", asyncio.Event().wait))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
