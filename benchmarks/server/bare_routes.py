"""What the gateway is measured against: python -m benchmarks.server.bare_routes starlette|protocol PORT FILE.

``starlette``: one Starlette route on uvicorn with uvloop and httptools that returns the file's bytes from memory: no
body is read, nothing is validated, counted or logged. ``protocol``: the same bytes written straight to the socket for
each request head that comes in; no server can be faster, so it shows what the load generator itself can reach.
"""

import asyncio
import sys
from pathlib import Path
from typing import cast

import uvicorn
import uvloop
from easel_server.transport.server import KEEP_ALIVE_SECONDS
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

HOST = "127.0.0.1"
PATH = "/v1/images/generations"
REQUEST_END = b"}"  # the body of the requests that are sent ends so


def build_app(body: bytes) -> Starlette:
    """One route."""

    async def answer(_: Request) -> Response:
        return Response(body, media_type="application/json")

    return Starlette(routes=[Route(PATH, answer, methods=["POST"])])


def serve_starlette(port: int, body: bytes) -> None:
    """uvicorn with the gateway's settings."""
    uvicorn.run(
        build_app(body),
        host=HOST,
        port=port,
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )


class Echo(asyncio.Protocol):
    """Answers whatever ends a request."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without saying so

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        if data.endswith(REQUEST_END):
            assert self._transport is not None
            self._transport.write(self._answer)


async def serve_protocol(port: int, body: bytes) -> None:
    """Until killed."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    answer = head.encode() + body
    server = await asyncio.get_running_loop().create_server(lambda: Echo(answer), HOST, port)
    await server.serve_forever()


def main() -> None:
    """Serve until killed."""
    kind, port, file = sys.argv[1:]
    body = Path(file).read_bytes()
    if kind == "starlette":
        serve_starlette(int(port), body)
    else:
        uvloop.run(serve_protocol(int(port), body))


if __name__ == "__main__":
    main()
