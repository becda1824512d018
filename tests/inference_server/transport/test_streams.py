"""Streams of events: they go on while nothing happens, and tidy up when they end."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from easel_server.gateway.ending import Ending
from easel_server.transport.streams import EventStream, Streams, build_event, with_ticks
from starlette.types import Message

from tests.inference_server.api.serving import CountingMetrics


class Source:
    """Gives one thing when it may, and notes that it was closed."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.is_closed = False

    async def give(self) -> AsyncGenerator[bytes]:
        try:
            await self.go.wait()
            yield build_event("done", {})
        finally:
            self.is_closed = True


async def test_silence_ticks_and_nothing_is_lost_by_it():
    source = Source()
    ticks = with_ticks(source.give(), 0)
    assert [await anext(ticks) for _ in range(3)] == [None] * 3
    source.go.set()
    assert [tick async for tick in ticks if tick] == [b"event: done\ndata: {}\n\n"]
    assert source.is_closed


async def test_ticks_that_are_not_read_to_their_end_close_their_source():
    source = Source()
    ticks = with_ticks(source.give(), 0)
    assert await anext(ticks) is None
    await ticks.aclose()
    assert source.is_closed


async def test_an_error_of_the_source_comes_through():
    nothing: dict[str, bytes] = {}

    async def fail() -> AsyncGenerator[bytes]:
        yield nothing["gone"]

    with pytest.raises(KeyError, match="gone"):
        await anext(with_ticks(fail(), 0))


async def test_a_client_that_leaves_ends_its_stream_and_what_belongs_to_it():
    source, metrics, closed = Source(), CountingMetrics(), asyncio.Event()
    sent: list[Message] = []
    leave = asyncio.Event()

    async def receive() -> Message:
        await leave.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)
        leave.set()

    async def on_close() -> None:
        closed.set()

    streams = Streams(1, metrics, Ending(jobs_outlive=True))
    stream = EventStream(source.give(), streams, customer="a", farewell=b"", on_close=on_close)
    await asyncio.wait_for(stream({"type": "http", "method": "GET"}, receive, send), 20)
    assert [message["type"] for message in sent] == ["http.response.start"]
    assert (source.is_closed, closed.is_set(), metrics.open_streams) == (True, True, 0)


def test_text_of_several_lines_stays_one_event():
    assert build_event("logs", "one\ntwo", "id-1") == b"event: logs\ndata: one\ndata: two\nid: id-1\n\n"
