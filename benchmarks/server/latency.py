"""Latency that Easel adds to the engine's own time, at half load.

Requests without a seed arrive as a Poisson process at half of what the workers can generate (open loop: nobody waits
for anybody's answer). Each is answered by POST /v1/images/generations with its image. Added is what the client
measured, less the engine's configured time, less the time that the request would have waited in an ideal queue: first
come first served, the same arrivals as they were really sent, the same workers, no overhead.
"""

import heapq
import json
import random
from collections.abc import Sequence
from typing import Any

from benchmarks.server.deployment import build_config, deployed
from benchmarks.server.load import generate
from benchmarks.server.raw_http import build_request
from benchmarks.server.samples import percentile, summarize
from tests.support.redis_server import RedisServer

PATH = "/v1/images/generations"
ENGINE_MILLISECONDS = 100
WORKERS = 4
LOAD = 0.5
WARM_UP_REQUESTS = 10
CONNECTIONS = 8
SEED = 4


def measure(redis: RedisServer, *, rounds: int, requests: int) -> dict[str, Any]:
    """Percentiles of the added latency, in milliseconds."""
    randomness = random.Random(SEED)  # noqa: S311  # arrivals, not secrets
    body = json.dumps({"prompt": "a lighthouse at dawn, oil on canvas", "size": "64x64"}).encode()
    request = build_request("POST", PATH, body)
    order = {"kind": "arrivals", "connections": CONNECTIONS}
    added: list[list[float]] = []
    with deployed(build_config(milliseconds_per_image=ENGINE_MILLISECONDS), redis, WORKERS) as deployment:
        order["port"] = deployment.port
        generate({**order, "offsets_seconds": draw_arrivals(randomness, WARM_UP_REQUESTS)}, request)
        for _ in range(rounds):
            seen = generate({**order, "offsets_seconds": draw_arrivals(randomness, requests)}, request)
            added.append(subtract_ideal(seen["sent_seconds"], seen["latencies_seconds"]))
    return {
        "engine_milliseconds": ENGINE_MILLISECONDS,
        "workers": WORKERS,
        "load": LOAD,
        "requests_of_a_round": requests,
        "added_milliseconds_p50": summarize([percentile(one, 50) for one in added]).to_record(1),
        "added_milliseconds_p99": summarize([percentile(one, 99) for one in added]).to_record(1),
    }


def draw_arrivals(randomness: random.Random, requests: int) -> list[float]:
    """Times in seconds since the beginning."""
    rate = LOAD * WORKERS * 1000 / ENGINE_MILLISECONDS
    arrivals, now = [], 0.0
    for _ in range(requests):
        now += randomness.expovariate(rate)
        arrivals.append(now)
    return arrivals


def subtract_ideal(sent_seconds: Sequence[float], latencies_seconds: Sequence[float]) -> list[float]:
    """Added milliseconds of each request, in the order in which they were sent."""
    service_seconds = ENGINE_MILLISECONDS / 1000
    free_at_seconds = [0.0] * WORKERS
    added = []
    for sent, latency in sorted(zip(sent_seconds, latencies_seconds, strict=True)):
        start = max(sent, heapq.heappop(free_at_seconds))
        heapq.heappush(free_at_seconds, start + service_seconds)
        added.append((latency - (start - sent) - service_seconds) * 1000)
    return added
