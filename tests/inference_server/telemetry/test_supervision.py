"""Tasks that nobody awaits go on after what nobody foresaw, and it is counted."""

import asyncio
import logging

import pytest
from easel_contract import metrics as contract
from easel_server.telemetry.metrics import ServerMetrics
from easel_server.telemetry.supervision import keep_running


async def test_a_task_that_fails_or_ends_is_begun_again_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    metrics = ServerMetrics(gateway=True, worker=False)
    third = asyncio.Event()
    runs = 0

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise KeyError("one bad record")
        if runs == 3:
            third.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(keep_running("reaper", run, metrics, first_pause_seconds=0.0))
    await asyncio.wait_for(third.wait(), 5)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert metrics.registry.get_sample_value(contract.TASK_FAILURES_TOTAL, {"task": "reaper"}) == 2
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "KeyError('one bad record')" in errors[0].message
    assert errors[0].exc_info is not None
    assert "it ended by itself" in errors[1].message


async def test_the_pause_doubles_up_to_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 5:
            raise asyncio.CancelledError

    async def run() -> None:
        raise KeyError("always")

    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await keep_running("reaper", run, ServerMetrics(gateway=True, worker=False))
    assert pauses == [1, 2, 4, 8, 16]
