"""On the cluster: the trace, and bursts that wait for an order."""

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import mean
from threading import Event, Thread
from typing import Any, Final

from easel_contract.conditions import Reason
from easel_contract.resource import QueueOrder

from benchmarks.record import build_provenance
from benchmarks.simulator import orders, world
from benchmarks.simulator.course import Course
from benchmarks.simulator.pod_watch import PodWatch
from benchmarks.simulator.replay import replay
from benchmarks.simulator.workload import draw_requests
from demo.cluster import Cluster
from demo.load import forwarded

READY_POD_SECONDS: Final = 30.0
LOAD_LOOK_SECONDS: Final = 5.0


def run_trace(cluster: Cluster, period_seconds: int, duration_seconds: float, seed: int, order: QueueOrder) -> Course:
    """The trace, from the moment at which the service's first pod is ready. Blocks for its duration and longer."""
    requests = draw_requests(duration_seconds, seed)
    name = f"truth-{order.lower()}"
    with world.running_service(cluster, name, queueOrder=order) as service, forwarded(cluster, service) as url:
        world.wait_for_scaling(cluster, service, Reason.FOLLOWING_DEMAND)
        with PodWatch(cluster, service) as watch, watched_load() as loads:
            watch.wait_until(
                lambda seen: any(pod.is_ready for pod in seen.pods.values()), "a ready pod", READY_POD_SECONDS
            )
            began_at = time.time()
            replayed = asyncio.run(replay(url, requests, began_at))
            time.sleep(max(0.0, began_at + duration_seconds - time.time()))
            seen = watch.seen
    return Course(
        period_seconds=period_seconds,
        duration_seconds=duration_seconds,
        seed=seed,
        load_average=mean(loads),
        measured=build_provenance(),
        orders=[(at - began_at, replicas) for at, replicas in seen.orders],
        pods=[pod.to_life(began_at) for pod in seen.pods.values()],
        requests=replayed,
        queue_order=order,
    )


def run_bursts(cluster: Cluster, period_seconds: int, bursts: int, reason: Reason) -> dict[str, Any]:
    """The record of bursts on a service of their own, which is scaled in the way that ``reason`` names."""
    with world.running_service(cluster, "bursts", **orders.SCALING) as service, watched_load() as loads:
        world.wait_for_scaling(cluster, service, reason)
        delays = orders.measure_orders(cluster, service, bursts=bursts, period_seconds=period_seconds)
    return {**orders.to_record(delays), "load_average": round(mean(loads), 2), "measured": build_provenance()}


@contextmanager
def watched_load() -> Iterator[Sequence[float]]:
    """The machine's load average of a minute, looked at now and then while the context is open."""
    loads, stop = [os.getloadavg()[0]], Event()

    def look() -> None:
        while not stop.wait(LOAD_LOOK_SECONDS):
            loads.append(os.getloadavg()[0])

    thread = Thread(target=look, daemon=True)
    thread.start()
    try:
        yield loads
    finally:
        stop.set()
        thread.join()
