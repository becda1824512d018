"""Real servers on loopback that behave as hosts of files do, and as they shouldn't."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

Serve = Callable[[str, asyncio.StreamWriter], Awaitable[None]]  # a request's head, and where the answer goes


@asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[tuple[int, list[str]]]:
    """A server that answers each request's head as it is told: its port, and the heads it saw."""
    heads: list[str] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            await serve(heads[-1], writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # who fetched has seen enough
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], heads
    finally:
        server.close()


def answer(body: bytes = b"", *headers: str, status: str = "200 OK", length: int | None = None) -> Serve:
    """All at once; ``length`` is what Content-Length says, if not the truth."""

    async def serve(_: str, writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
        writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode() + body)
        await writer.drain()

    return serve


def redirect(location: str, status: int = 302) -> Serve:
    """To somewhere else."""
    return answer(b"", f"Location: {location}", status=f"{status} Found")


async def write_forever(writer: asyncio.StreamWriter, part: bytes) -> None:
    """Until who reads has had enough."""
    while True:
        writer.write(part)
        await writer.drain()


async def trickle(_: str, writer: asyncio.StreamWriter) -> None:
    """A byte at a time, without an end."""
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)
