"""uvicorn's HTTP protocol, with a bound on a request's head: its request line and headers, in bytes and in time.

uvicorn on httptools keeps all headers that come, however many and however slowly. Bodies are bounded where they are
read.
"""

from asyncio import TimerHandle, Transport
from http import HTTPStatus
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES: Final = 64 << 10
HEAD_SECONDS: Final = 20.0  # from connecting, or from a request's first byte, to its last header


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection."""

    _is_in_head = True
    _head_bytes = 0
    _head_timer: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Called by the event loop."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._refuse, 408, "the request's head is too slow")

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        super().data_received(data)
        if not self._is_in_head or self.transport.is_closing():
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, f"the request's head is longer than {MAX_HEAD_BYTES} bytes, the most allowed")
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._refuse, 408, "the request's head is too slow")

    def on_message_begin(self) -> None:
        """Called by the parser."""
        self._is_in_head = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._is_in_head = False
        self._stop_timer()
        super().on_headers_complete()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: int, message: str) -> None:
        self._stop_timer()
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
        self.transport.close()
