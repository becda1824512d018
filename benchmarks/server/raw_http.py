"""A lean HTTP/1.1 client on keep-alive connections, so that the load generator is not what is measured."""

import asyncio
import re
from dataclasses import dataclass
from typing import cast

CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
HEAD_END = b"\r\n\r\n"
STATUS = slice(9, 12)  # of "HTTP/1.1 200 OK"


@dataclass(frozen=True)
class Answer:
    """A response; its body in the pieces in which it came."""

    status: int
    pieces: list[bytes]

    @property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(self.pieces)


def build_request(method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    """A request as bytes."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    if body:
        lines.append("Content-Type: application/json")
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode() + HEAD_END + body


class Connection(asyncio.Protocol):
    """One request at a time; answers need a Content-Length."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[Answer] | None = None
        self._head = b""
        self._status = 0
        self._pieces: list[bytes] = []
        self._missing_bytes: int | None = None
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, host: str, port: int) -> "Connection":
        """A connection. Raises OSError."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, host, port)
        return connection

    def request(self, request: bytes) -> asyncio.Future[Answer]:
        """Send; the future raises ConnectionError if the server closes first."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def close(self) -> None:
        """Close it."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without saying so

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        if self._missing_bytes is None:
            self._head += data
            end = self._head.find(HEAD_END)
            if end < 0:
                return
            length = CONTENT_LENGTH.search(self._head, 0, end)
            assert length is not None, f"an answer without Content-Length: {self._head[:200]!r}"
            self._status = int(self._head[STATUS])
            data = self._head[end + len(HEAD_END) :]
            self._missing_bytes = int(length[1])
            self._head, self._pieces = b"", []
        self._pieces.append(data)
        self._missing_bytes -= len(data)
        if self._missing_bytes <= 0:
            self._missing_bytes = None
            assert self._answer is not None
            if not self._answer.done():
                self._answer.set_result(Answer(self._status, self._pieces))
