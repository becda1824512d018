"""Server-sent events: their answer, and the clock that a stream needs while nothing happens.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from typing import Any, Final, TypeVar

from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.types import Receive, Scope, Send

from easel_server.gateway.ending import Ending
from easel_server.gateway.refusals import refuse_for_streams
from easel_server.generation.shares import has_place
from easel_server.telemetry.gateway_metrics import RequestMetrics
from easel_server.transport.protocol import STREAM_PROBE


class Streams:
    """Counts them, by customer."""

    def __init__(self, bound: int, metrics: RequestMetrics, ending: Ending, *, is_shared: bool = False) -> None:
        """``ending`` ends all that are open when it begins.

        ``is_shared``: several customers share the bound, so that each may have a share only.
        """
        self.ending = ending
        self._bound = bound
        self._metrics = metrics
        self._is_shared = is_shared
        self._open: Counter[str] = Counter()  # none is 0

    @contextmanager
    def hold(self, customer: str) -> Iterator[None]:
        """Hold one open for as long as the block lasts.

        Raises RefusalError (429) if as many are open as may be, or as many of the customer.
        """
        held, taken = self._open[customer], self._open.total()
        if self._is_shared and not has_place(held=held, taken=taken, bound=self._bound):
            raise refuse_for_streams(taken, self._bound, held=held)
        if not self._is_shared and taken >= self._bound:
            raise refuse_for_streams(taken, self._bound)
        self._open[customer] += 1
        self._metrics.count_streams(1)
        try:
            yield
        finally:
            self._open[customer] -= 1
            self._open += Counter()  # forgets who has none
            self._metrics.count_streams(-1)


KEEP_ALIVE_SECONDS: Final = 15.0  # well below the minute after which common proxies close a silent connection
LAST_EVENT_ID_HEADER: Final = "Last-Event-ID"
HEADERS: Final = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would hold events back until its buffer is full
}
T = TypeVar("T")


def build_event(name: str, data: Mapping[str, Any] | str, event_id: str | None = None) -> bytes:
    """An event as it travels; data that isn't text is sent as JSON."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return format_sse_event(event=name, data_str=text, id=event_id)


async def with_ticks(
    source: AsyncGenerator[T], seconds: float, until: asyncio.Future[None] | None = None
) -> AsyncGenerator[T | None]:
    """What ``source`` gives, and None whenever it gave nothing for ``seconds``. Closes the source at its own end.

    That comes too when ``until`` is done, which is seen whenever the source has nothing to give.
    """
    following: asyncio.Future[T] | None = None
    try:
        while True:
            if following is None:
                following = asyncio.ensure_future(anext(source))
            awaited: set[asyncio.Future[Any]] = {following} if until is None else {following, until}
            await asyncio.wait(awaited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                if until is not None and until.done():
                    return
                yield None
                continue
            try:
                item = following.result()
            except StopAsyncIteration:
                return
            finally:
                following = None
            yield item
    finally:
        if following is not None:
            following.cancel()
            with suppress(asyncio.CancelledError, StopAsyncIteration):
                await following
        await source.aclose()


class EventStream(EventSourceResponse):
    """Sends events until they end, the client leaves, or this gateway ends.

    Then they are closed, and ``on_close`` is called but for that last case: they may be followed elsewhere, as
    ``farewell`` says.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes],
        streams: Streams,
        *,
        customer: str,
        farewell: bytes,
        headers: Mapping[str, str] | None = None,
        on_close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._kept_alive = self._keep_alive(events)
        self._is_cut_off = False
        self._farewell = farewell
        self._streams = streams
        self._customer = customer
        self._on_close = on_close
        super().__init__(self._kept_alive, headers={**HEADERS, **(headers or {})})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the stream. Raises RefusalError, before anything is sent, if as many are open as may be."""
        scope[STREAM_PROBE] = KEEPALIVE_COMMENT
        try:
            with self._streams.hold(self._customer):
                async with aclosing(self._kept_alive):
                    if scope["method"] == "HEAD":
                        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                        await send({"type": "http.response.body"})
                    else:
                        await super().__call__(scope, receive, send)
        finally:
            if self._on_close is not None and not self._is_cut_off:
                await self._on_close()

    async def _keep_alive(self, events: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        has_ended = False

        async def to_the_end() -> AsyncGenerator[bytes]:
            nonlocal has_ended
            async with aclosing(events):
                async for event in events:
                    yield event
            has_ended = True

        with self._streams.ending.watched() as ending:
            async with aclosing(with_ticks(to_the_end(), KEEP_ALIVE_SECONDS, ending)) as ticks:
                async for event in ticks:
                    yield KEEPALIVE_COMMENT if event is None else event
        if not has_ended:
            self._is_cut_off = True
            yield self._farewell
