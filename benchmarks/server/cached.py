"""Cached images a second through POST /v1/images/generations, as a share of a bare Starlette route with the same bytes.

Both servers run on equal uvicorn settings and are asked in turns by the same load generator; the share is taken within
each round. The processor time that each server used for an answer is given beside: it tells the same story on a machine
that others use too.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.server.deployment import Deployment, build_config, deployed
from benchmarks.server.load import generate
from benchmarks.server.processes import cpu_seconds, running, wait_for_port
from benchmarks.server.raw_http import build_request
from benchmarks.server.samples import summarize
from tests.support.redis_server import RedisServer, find_free_port

PATH = "/v1/images/generations"
SIDES_PIXELS = (64, 512)
CONNECTIONS = 16
WARM_UP_SECONDS = 1.0
ROUTED_HEADERS = {"Cache-Control": "max-age=86400"}  # allows the cache, and has the request parsed and checked anew


@dataclass(frozen=True)
class Rate:
    """What one server did in one turn."""

    answers_per_second: float
    cpu_microseconds: float  # of the server, for one answer


def measure(redis: RedisServer, *, rounds: int, seconds: float) -> dict[str, Any]:
    """Figures for each size of image."""
    with deployed(build_config(), redis, workers=1) as deployment:
        return {f"{side}x{side}": _measure_size(deployment, side, rounds, seconds) for side in SIDES_PIXELS}


def _measure_size(deployment: Deployment, side: int, rounds: int, seconds: float) -> dict[str, Any]:
    order = {"prompt": "a lighthouse at dawn, oil on canvas", "size": f"{side}x{side}", "seed": 7}
    deployment.post(PATH, order)
    cached = deployment.post(PATH, order)
    assert cached.headers["x-cache"] == "hit", cached.headers
    repeated = build_request("POST", PATH, json.dumps(order).encode())
    routed = build_request("POST", PATH, json.dumps(order).encode(), ROUTED_HEADERS)

    def take_turn(pid: int, port: int, seconds: float, request: bytes = repeated) -> Rate:
        before = cpu_seconds(pid)
        seen = generate({"kind": "rate", "port": port, "connections": CONNECTIONS, "seconds": seconds}, request)
        answers = seen["statuses"].get("200", 0)
        assert list(seen["statuses"]) == ["200"], seen
        return Rate(answers / seen["seconds"], (cpu_seconds(pid) - before) / answers * 1e6)

    with _bare("starlette", cached.content) as bare, _bare("protocol", cached.content) as ceiling:
        gateway = (deployment.gateway.process.pid, deployment.port)
        for server in (gateway, bare):
            take_turn(*server, WARM_UP_SECONDS)
        turns = [
            (take_turn(*gateway, seconds), take_turn(*bare, seconds), take_turn(*gateway, seconds, routed))
            for _ in range(rounds)
        ]
        most = take_turn(*ceiling, seconds)
    ours, theirs, long_way = zip(*turns, strict=True)
    return {
        "answer_bytes": len(cached.content),
        "easel_images_per_second": summarize([rate.answers_per_second for rate in ours]).to_record(0),
        "bare_images_per_second": summarize([rate.answers_per_second for rate in theirs]).to_record(0),
        "easel_routed_images_per_second": summarize([rate.answers_per_second for rate in long_way]).to_record(0),
        "share_of_bare": summarize([a.answers_per_second / b.answers_per_second for a, b, _ in turns]).to_record(),
        "share_of_bare_routed": summarize(
            [a.answers_per_second / b.answers_per_second for _, b, a in turns]
        ).to_record(),
        "share_of_bare_by_cpu": summarize([b.cpu_microseconds / a.cpu_microseconds for a, b, _ in turns]).to_record(),
        "easel_cpu_microseconds": summarize([rate.cpu_microseconds for rate in ours]).to_record(1),
        "easel_routed_cpu_microseconds": summarize([rate.cpu_microseconds for rate in long_way]).to_record(1),
        "bare_cpu_microseconds": summarize([rate.cpu_microseconds for rate in theirs]).to_record(1),
        "load_generator_ceiling_per_second": round(most.answers_per_second),
    }


@contextmanager
def _bare(kind: str, body: bytes) -> Iterator[tuple[int, int]]:
    """A server of bare_routes.py; its process and port."""
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(body)
        port = find_free_port()
        with running([sys.executable, "-m", "benchmarks.server.bare_routes", kind, str(port), file.name]) as pid:
            wait_for_port(port)
            yield pid, port
