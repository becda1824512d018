"""How long it takes from a burst's first request to the order for more pods."""

import asyncio
import time
from collections.abc import Callable
from statistics import median
from typing import Any, Final

from benchmarks.simulator.pod_watch import PodWatch, Seen
from benchmarks.simulator.replay import cancel_all, send_burst
from benchmarks.simulator.workload import STEPS, Request
from demo.cluster import Cluster
from demo.load import forwarded

BURST_REQUESTS: Final = 12
REST_SECONDS: Final = 180.0  # for an order, and for the way back to one pod
SCALING: Final = {"minReplicas": 1, "scaleDownAfterSeconds": 5}  # so that each burst finds one idle pod, soon again


def measure_orders(cluster: Cluster, service: str, *, bursts: int, period_seconds: float) -> list[float]:
    """Seconds from a burst's first request to the rise of the Deployment's ``spec.replicas``, burst by burst.

    Each burst finds one idle pod. The order that left only that one was a tick of the autoscaler, so the bursts are
    spread evenly over its period, counted from there.
    """
    delays: list[float] = []
    with forwarded(cluster, service) as url, PodWatch(cluster, service) as watch:
        for burst in range(bursts):
            watch.wait_until(_is_at_rest, "one pod that nobody needs", REST_SECONDS)
            time.sleep(period_seconds * (1 + (burst + 0.5) / bursts))
            orders = len(watch.seen.orders)
            began_at, ids = asyncio.run(send_burst(url, [Request(0.0, max(STEPS))] * BURST_REQUESTS))
            watch.wait_until(_has_more_orders_than(orders), "an order for more pods", REST_SECONDS)
            delays.append(watch.seen.orders[orders][0] - began_at)
            asyncio.run(cancel_all(url, ids))
    return delays


def to_record(delays: list[float]) -> dict[str, Any]:
    """JSON-ready figures."""
    return {
        "bursts": len(delays),
        "median_seconds": round(median(delays), 2),
        "max_seconds": round(max(delays), 2),
        "seconds": [round(delay, 2) for delay in delays],
    }


def _has_more_orders_than(known: int) -> Callable[[Seen], bool]:
    return lambda seen: len(seen.orders) > known


def _is_at_rest(seen: Seen) -> bool:
    return bool(seen.orders) and seen.orders[-1][1] == 1 and sum(not pod.is_leaving for pod in seen.pods.values()) == 1
