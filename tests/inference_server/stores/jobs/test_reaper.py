"""The reaping task."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.jobs.interface import ReapReport
from easel_server.stores.jobs.reaper import reap_forever

from tests.support.eventually import eventually

PERIOD_SECONDS = 0.001


class FakeStore:
    """Counts; it is away while ``is_away``."""

    def __init__(self) -> None:
        self.is_away = False
        self.reaps = 0
        self.models: Sequence[str] = ()
        self.pings = 0

    async def reap(self, models: Sequence[str] = ()) -> ReapReport:
        self._answer()
        self.models = models
        self.reaps += 1
        return ReapReport(requeued=1)

    async def ping(self) -> None:
        self._answer()
        self.pings += 1

    def _answer(self) -> None:
        if self.is_away:
            raise StoreUnavailableError("redis:6379", "reap", "ConnectionError", "wait")


@asynccontextmanager
async def reaping(store: FakeStore, grace_seconds: float) -> AsyncIterator[None]:
    task = asyncio.create_task(
        reap_forever(store, store.ping, lambda: ["model"], grace_seconds=grace_seconds, period_seconds=PERIOD_SECONDS)
    )
    yield
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])


async def test_it_reaps_again_and_again() -> None:
    store = FakeStore()
    async with reaping(store, grace_seconds=0):

        async def reaped_often() -> bool:
            return store.reaps > 3

        await eventually(reaped_often)
    assert store.models == ["model"]


async def test_after_an_outage_workers_have_a_leases_time_to_report_first() -> None:
    store = FakeStore()
    store.is_away = True
    async with reaping(store, grace_seconds=600):
        await asyncio.sleep(0)
        store.is_away = False
        await eventually(lambda: asyncio.sleep(0, store.pings > 3))
        assert store.reaps == 0


async def test_a_leases_time_after_an_outage_it_reaps_again() -> None:
    store = FakeStore()
    store.is_away = True
    async with reaping(store, grace_seconds=0.05):
        await asyncio.sleep(0)
        store.is_away = False
        await eventually(lambda: asyncio.sleep(0, store.reaps > 0))
    assert store.pings


async def test_an_outage_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    store = FakeStore()
    store.is_away = True
    async with reaping(store, grace_seconds=60):

        async def was_logged() -> bool:
            return "until the job store is back" in caplog.text

        await eventually(was_logged)
        for _ in range(20):
            await asyncio.sleep(0)
    assert caplog.text.count("until the job store is back") == 1
