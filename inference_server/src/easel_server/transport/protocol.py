"""uvicorn's HTTP protocol, with what it leaves open: bounds on heads, slow bodies, ends of connections.

uvicorn on httptools keeps all headers that come, waits for a body for ever, resets a connection whose client is still
sending when its answer is ready, and takes a client that has sent all (``shutdown(SHUT_WR)``) for one that left. How
many bytes of bodies are held is bounded in ``body_bounds.py``, where errors have an API's shape.
"""

import socket
from asyncio import TimerHandle, Transport
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_HEAD_BYTES: Final = 64 << 10
MAX_HEADERS: Final = 128  # of one request; browsers send some 20, proxies add a few
HEAD_SECONDS: Final = 20.0  # from connecting, or from a request's first byte, to its last header

# A body must come at this rate at the least, looked at once a window, and be there after BODY_SECONDS. The rate is a
# bad mobile connection's; the whole time lets the largest default body (16 MiB) come at 56 KiB a second.
BODY_WINDOW_SECONDS: Final = 10.0
MIN_BODY_BYTES_PER_SECOND: Final = 4 << 10
BODY_SECONDS: Final = 300.0

LINGER_SECONDS: Final = 5.0  # for a client to read an answer that came before it had sent all
# After a client has sent its last byte: when to send it something, which it answers by a reset if it has left. Few,
# since clients bound the number of interim answers (Go's allows five).
PROBE_SECONDS: Final = (0.0, 30.0, 120.0, 300.0)
RESET_LOOK_SECONDS: Final = 0.1
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

# Marks in a request's scope.
CLIENT_LEFT: Final = "easel.client_left"  # before its answer was complete
BODY_TOO_SLOW: Final = "easel.body_too_slow"
STREAM_PROBE: Final = "easel.stream_probe"  # bytes that mean nothing to the reader of this answer, which is chunked


class _HeadTooLargeError(Exception):
    """Ends the parsing of a head."""


class _GentleTransport:
    """The transport as a request's cycle sees it: closing it lets the client read the answer first."""

    def __init__(self, protocol: "BoundedHttpProtocol") -> None:
        self._protocol = protocol
        self.write = protocol.transport.write
        self.is_closing = protocol.transport.is_closing

    def close(self) -> None:
        """Close, now or after LINGER_SECONDS."""
        self._protocol.close_gently()


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection."""

    _is_in_head = True
    _is_in_body = False
    _head_bytes = 0  # of the parsed parts of this head, and of its body's trailers
    _head_lines = 0
    _gathered_bytes = 0  # that the parser may hold of a header or trailer that isn't complete
    _has_progress = False  # whether the data at hand held any part of a body, or an end
    _refusal: tuple[int, str] | None = None
    _head_timer: TimerHandle | None = None
    _body_timer: TimerHandle | None = None
    _body_seconds = 0.0
    _body_bytes = 0  # in this window
    _is_lingering = False
    _linger_timer: TimerHandle | None = None
    _reset_timer: TimerHandle | None = None

    # The connection.

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Called by the event loop."""
        super().connection_made(transport)
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        for timer in (self._head_timer, self._body_timer, self._linger_timer, self._reset_timer):
            if timer is not None:
                timer.cancel()
        cycles: list[RequestResponseCycle | None] = [self.cycle, *(cycle for cycle, _ in self.pipeline)]
        for cycle in cycles:
            if cycle is not None and not cycle.response_complete:
                cycle.scope[CLIENT_LEFT] = True  # type: ignore[typeddict-unknown-key]
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        if self._is_lingering:
            return
        was_in_head, self._has_progress = self._is_in_head, False
        super().data_received(data)
        if self.transport.is_closing() or self._is_lingering:
            return
        if self._is_in_head and self._head_timer is None:
            self._start_head_timer()
        if self._is_in_body and self._body_timer is None:
            self._watch_body(self.cycle)
        if self._has_progress or was_in_head != self._is_in_head:
            self._gathered_bytes = 0
            return
        self._gathered_bytes += len(data)
        if self._gathered_bytes > MAX_HEAD_BYTES:
            self._refuse(*_refuse_head_bytes())

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Called by the event loop. A client that has sent its request may still wait for the answer.

        One that has left looks the same, but answers whatever it is sent by a reset. HTTP/1.0 knows nothing that could
        be sent ahead of an answer, so there it is taken as having left; so is who has sent several requests.
        """
        cycle: RequestResponseCycle | None = self.cycle
        if self._is_lingering or cycle is None or cycle.response_complete or cycle.more_body or self.pipeline:
            return None
        if cycle.scope["http_version"] == "1.0":
            return None
        cycle.keep_alive = False
        self._probe(cycle, 0)
        return True

    def close_gently(self) -> None:
        """Close; a client that is still sending may read its answer first.

        To close with unread bytes resets the connection, and the answer with it:
        https://www.rfc-editor.org/rfc/rfc9112#section-9.6
        """
        if self._is_lingering or self.transport.is_closing():
            return
        if not (self._is_in_head or self._is_in_body) or not self.transport.can_write_eof():
            self.transport.close()
            return
        self._is_lingering = True
        self.flow.resume_reading()
        self.transport.write_eof()
        self._linger_timer = self.loop.call_later(LINGER_SECONDS, self.transport.close)

    # The parser's calls.

    def on_message_begin(self) -> None:
        """Called by the parser."""
        self._is_in_head = True
        self._head_bytes = self._head_lines = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Called by the parser."""
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser; for trailers too."""
        self._head_lines += 1
        self._count_head(len(name) + len(value) + len(": \r\n"))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._is_in_head, self._is_in_body = False, True
        self._stop_head_timer()
        self._body_seconds, self._body_bytes = 0.0, 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._has_progress = True
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self._has_progress, self._is_in_body = True, False
        self._stop_body_timer()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What the parser can't go on after; also where it was stopped for a bound."""
        if self._refusal is not None:
            self._refuse(*self._refusal)
        else:
            super().send_400_response(msg)

    def _count_head(self, size_bytes: int) -> None:
        self._head_bytes += size_bytes
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refusal = _refuse_head_bytes()
            raise _HeadTooLargeError
        if self._head_lines > MAX_HEADERS:
            self._refusal = 431, f"the request has more than {MAX_HEADERS} headers, the most allowed"
            raise _HeadTooLargeError

    # A request's cycle.

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGIApp) -> None:  # type: ignore[override]
        cycle.transport = _GentleTransport(self)  # type: ignore[assignment]

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            async def send_and_say(message: Message) -> None:
                if cycle.more_body and message["type"] == "http.response.start":
                    cycle.keep_alive = False  # what is left of the body is not waited for; the head says so
                await send(message)

            await app(scope, receive, send_and_say)

        super()._start_asgi_task(cycle, answer)  # type: ignore[arg-type]

    def on_response_complete(self) -> None:
        """Called by the cycle."""
        if not self._is_lingering:
            super().on_response_complete()

    def _watch_body(self, cycle: RequestResponseCycle) -> None:
        self._body_timer = self.loop.call_later(BODY_WINDOW_SECONDS, self._judge_body, cycle)

    def _judge_body(self, cycle: RequestResponseCycle) -> None:
        if cycle.response_complete:
            return
        # Time in which we don't read, or the client waits for our word to send, isn't the client's.
        if not self.flow.read_paused and not cycle.waiting_for_100_continue:
            self._body_seconds += BODY_WINDOW_SECONDS
            is_trickle = self._body_bytes < MIN_BODY_BYTES_PER_SECOND * BODY_WINDOW_SECONDS
            if is_trickle or self._body_seconds >= BODY_SECONDS:
                cycle.scope[BODY_TOO_SLOW] = True  # type: ignore[typeddict-unknown-key]
                cycle.message_event.set()
                return
        self._body_bytes = 0
        self._watch_body(cycle)

    def _probe(self, cycle: RequestResponseCycle, number: int) -> None:
        """Send a client that is silent for good what it need not understand, so that it says if it has left."""
        if cycle.response_complete or self.transport.is_closing():
            return
        stream_probe: bytes | None = cycle.scope.get(STREAM_PROBE)  # type: ignore[assignment]
        if not cycle.response_started:
            self.transport.write(CONTINUE)
        elif stream_probe is not None:
            self.transport.write(b"%x\r\n%b\r\n" % (len(stream_probe), stream_probe))
        following = number + 1
        next_at = None
        if following < len(PROBE_SECONDS):
            next_at = self.loop.time() + PROBE_SECONDS[following] - PROBE_SECONDS[number]
        self._look_for_reset(cycle, lambda: self._probe(cycle, following), next_at)

    def _look_for_reset(self, cycle: RequestResponseCycle, probe: Callable[[], None], probe_at: float | None) -> None:
        """The event loop reads no more after a client's end, and so hears of no reset."""
        if cycle.response_complete or self.transport.is_closing():
            return
        connection: Any = self.transport.get_extra_info("socket")
        if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
        elif probe_at is not None and self.loop.time() >= probe_at:
            probe()
        else:
            self._reset_timer = self.loop.call_later(RESET_LOOK_SECONDS, self._look_for_reset, cycle, probe, probe_at)

    # Refusals ahead of any request.

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._refuse, 408, "the request's head is too slow")

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_body_timer(self) -> None:
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    def _refuse(self, status: int, message: str) -> None:
        self._stop_head_timer()
        if self.transport.is_closing():
            return
        body = message.encode()
        lines = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            "connection: close",
            "content-type: text/plain; charset=utf-8",
            f"content-length: {len(body)}",
        )
        head = "".join(f"{line}\r\n" for line in (*lines, ""))
        self.transport.write(head.encode() + body)
        self._is_in_head = True
        self.close_gently()


def _refuse_head_bytes() -> tuple[int, str]:
    return 431, f"the request's head is longer than {MAX_HEAD_BYTES} bytes, the most allowed"
