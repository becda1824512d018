"""Why a process isn't ready."""

import asyncio

import pytest
from easel_server.stores.errors import StoreEvictsError, StoreUnavailableError
from easel_server.transport import probes as readiness
from easel_server.transport.probes import Readiness, ReadyReason


async def answer_at_once() -> None:
    pass


async def refuse() -> None:
    raise StoreUnavailableError("redis:6379", "PING", "ConnectionError", "check it")


async def answer_never() -> None:
    await asyncio.Event().wait()


async def test_a_process_with_its_store_is_ready():
    state = await Readiness(answer_at_once).look()
    assert (state.is_ready, state.reason) == (True, ReadyReason.AVAILABLE)


async def test_a_store_that_refuses_is_named():
    state = await Readiness(refuse).look()
    assert (state.is_ready, state.reason) == (False, ReadyReason.REDIS_UNAVAILABLE)
    assert "redis:6379" in state.message


async def test_a_process_that_has_reached_its_store_stays_ready_while_it_is_away():
    is_away = False

    async def ping() -> None:
        if is_away:
            await refuse()

    ready = Readiness(ping)
    assert (await ready.look()).reason is ReadyReason.AVAILABLE
    is_away = True
    state = await ready.look()
    assert (state.is_ready, state.reason) == (True, ReadyReason.REDIS_UNAVAILABLE)
    ready.hold(ReadyReason.DRAINING, "")
    assert not (await ready.look()).is_ready


async def test_a_store_that_evicts_is_refused_even_by_a_process_that_has_used_it():
    evicts = False

    async def ping() -> None:
        if evicts:
            raise StoreEvictsError("redis:6379", "PING", "allkeys-lru", "CONFIG SET it", policy="allkeys-lru")

    ready = Readiness(ping)
    await ready.look()
    evicts = True
    state = await ready.look()
    assert (state.is_ready, state.reason) == (False, ReadyReason.REDIS_EVICTS)


async def test_a_store_that_is_silent_is_waited_for_no_longer_than_a_probe_does(monkeypatch):
    monkeypatch.setattr(readiness, "PING_TIMEOUT_SECONDS", 0.01)
    state = await Readiness(answer_never).look()
    assert state.message == "Redis did not answer within 0.01 s"


async def test_loading_holds_until_it_is_lifted():
    ready = Readiness(answer_at_once)
    ready.hold(ReadyReason.LOADING, "loading sd15")
    assert (await ready.look()).message == "loading sd15"
    ready.lift(ReadyReason.LOADING)
    assert (await ready.look()).is_ready


@pytest.mark.parametrize("first", [ReadyReason.LOADING, ReadyReason.DRAINING])
async def test_draining_is_reported_before_anything_else(first):
    ready = Readiness(refuse)
    for reason in (first, ReadyReason.LOADING, ReadyReason.DRAINING):
        ready.hold(reason, "")
    assert (await ready.look()).reason is ReadyReason.DRAINING
