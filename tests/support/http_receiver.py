"""A real HTTP server on loopback that records what it receives and answers as it is told."""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self


@dataclass(frozen=True)
class Received:
    request_line: str
    headers: dict[str, str]  # names in lower case
    body: bytes


class HttpReceiver:
    """``answer`` gives the status line and extra headers of each response; None never answers.

    What was received is kept, unless somebody else does so.
    """

    def __init__(
        self,
        answer: Callable[[Received], str | None] = lambda _: "200 OK",
        ssl_context: ssl.SSLContext | None = None,
        *,
        host: str = "127.0.0.1",
        keeps: bool = True,
    ) -> None:
        self._answer = answer
        self._ssl_context = ssl_context
        self._host = host
        self._keeps = keeps
        self.received: list[Received] = []
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self._host, 0, ssl=self._ssl_context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-1])}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            received = Received(head[0], headers, body)
            if self._keeps:
                self.received.append(received)
            answer = self._answer(received)
            if answer is None:
                await reader.read()  # until the sender gives up
            else:
                writer.write(f"HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the sender went away
        finally:
            writer.close()
