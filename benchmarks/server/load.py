"""A load generator as a process of its own: a JSON order on standard input, what it saw on standard output.

{"kind": "rate", "port": …, "request": …, "connections": …, "seconds": …}   as many equal requests as are answered
{"kind": "count", "port": …, "request": …, "connections": …, "count": …}    so many equal requests, bodies kept
{"kind": "arrivals", "port": …, "request": …, "offsets_seconds": […]}       open loop: each at its time
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.server.raw_http import Connection

HOST = "127.0.0.1"
ROOT = Path(__file__).parents[2]


def generate(order: dict[str, Any], request: bytes) -> dict[str, Any]:
    """Run an order in a process of its own; what it saw."""
    with tempfile.NamedTemporaryFile() as file:
        subprocess.run(
            [sys.executable, "-m", "benchmarks.server.load"],
            cwd=ROOT,
            input=json.dumps({**order, "request": request.decode("latin-1")}).encode(),
            stdout=file,
            check=True,
        )
        seen: dict[str, Any] = json.loads(Path(file.name).read_bytes())
    return seen


async def run_rate(order: dict[str, Any], request: bytes) -> dict[str, Any]:
    """Closed loop: each connection sends its next request when the last one is answered."""
    connections = [await Connection.open(HOST, order["port"]) for _ in range(order["connections"])]
    statuses: Counter[int] = Counter()
    stop_at = time.perf_counter() + order["seconds"]

    async def keep_asking(connection: Connection) -> None:
        while time.perf_counter() < stop_at:
            statuses[(await connection.request(request)).status] += 1

    began = time.perf_counter()
    await asyncio.gather(*map(keep_asking, connections))
    return {"seconds": time.perf_counter() - began, "statuses": dict(statuses)}


async def run_count(order: dict[str, Any], request: bytes) -> dict[str, Any]:
    """Closed loop until so many are answered."""
    connections = [await Connection.open(HOST, order["port"]) for _ in range(order["connections"])]
    bodies: list[bytes] = []
    left = order["count"]

    async def keep_asking(connection: Connection) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            answer = await connection.request(request)
            assert answer.status < 300, f"{answer.status} {answer.body[:500]!r}"
            bodies.append(answer.body)

    began = time.time()
    await asyncio.gather(*map(keep_asking, connections))
    return {"began_at": began, "ended_at": time.time(), "bodies": [body.decode() for body in bodies]}


async def run_arrivals(order: dict[str, Any], request: bytes) -> dict[str, Any]:
    """Open loop: requests go out at their times, however many are unanswered."""
    idle: list[Connection] = [await Connection.open(HOST, order["port"]) for _ in range(order["connections"])]
    loop = asyncio.get_running_loop()
    began = loop.time()
    sent: list[float] = []
    latencies: list[float] = []

    async def ask(index: int, offset: float) -> None:
        await asyncio.sleep(began + offset - loop.time())
        connection = idle.pop() if idle else await Connection.open(HOST, order["port"])
        sent[index] = loop.time()
        answer = await connection.request(request)
        latencies[index] = loop.time() - sent[index]
        assert answer.status < 300, f"{answer.status} {answer.body[:500]!r}"
        idle.append(connection)

    offsets: Sequence[float] = order["offsets_seconds"]
    sent, latencies = [0.0] * len(offsets), [0.0] * len(offsets)
    await asyncio.gather(*(ask(index, offset) for index, offset in enumerate(offsets)))
    return {"sent_seconds": [at - began for at in sent], "latencies_seconds": latencies}


KINDS = {"rate": run_rate, "count": run_count, "arrivals": run_arrivals}


def main() -> None:
    """Run the order on standard input."""
    order = json.loads(sys.stdin.buffer.read())
    request = order.pop("request").encode("latin-1")
    sys.stdout.write(json.dumps(uvloop.run(KINDS[order.pop("kind")](order, request))))


if __name__ == "__main__":
    main()
