"""``python -m benchmarks.scale.pod_server ROLE FIRST COUNT``: pods FIRST to FIRST + COUNT in a role, one address each.

A minimal HTTP server, so that the machine is left to what is measured: keep-alive, one prepared answer a request.
"""

import asyncio
import sys
from functools import partial
from ipaddress import IPv4Address
from typing import cast

import uvloop
from easel_contract import names

from benchmarks.scale.pages import STEPS, build_answers

FIRST_ADDRESS = IPv4Address("127.64.0.1")
BACKLOG = 64


def address_of(index: int) -> str:
    """A pod's own address on the loopback interface."""
    return str(FIRST_ADDRESS + index)


class Pod:
    """What one pod has answered so far."""

    def __init__(self, answers: list[bytes], service: int) -> None:
        self._answers = answers
        self._step = service * 7 % STEPS  # services are at different points, the pods of one at the same

    def answer(self) -> bytes:
        """The next page."""
        page = self._answers[self._step % STEPS]
        self._step += 1
        return page


class Connection(asyncio.Protocol):
    """One keep-alive connection; requests have no body."""

    def __init__(self, pod: Pod) -> None:
        self._pod = pod
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class isn't one of asyncio's

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            _, _, self._received = self._received.partition(b"\r\n\r\n")
            self._transport.write(self._pod.answer())


async def serve(role: str, first: int, count: int, pods_per_service: int) -> None:
    """Listen until killed; says so on standard output once all listen."""
    answers = await build_answers(role)
    loop = asyncio.get_running_loop()
    for index in range(first, first + count):
        pod = Pod(answers, (index - first) // pods_per_service)
        await loop.create_server(partial(Connection, pod), address_of(index), names.METRICS_PORT, backlog=BACKLOG)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], *map(int, sys.argv[2:5])))
