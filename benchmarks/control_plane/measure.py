"""What is measured: services made at once, one that changes, none that changes, and a restart."""

import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any, Final

from easel_contract import names
from easel_operator.objects import SERVICES_OF_EASEL, Json

from benchmarks.control_plane.floor import (
    Prepared,
    create_service,
    following_statuses,
    for_each,
    make_service,
    wait_for_children,
)
from benchmarks.control_plane.operator_process import OperatorProcess
from benchmarks.control_plane.plane import MERGE_PATCH, NAMESPACE, BareClient, Plane, connected, count_writes
from benchmarks.server.samples import percentile
from tests.support.api_server import TOKEN

SEED: Final = 20261127
CHANGE_SECONDS: Final = 60.0  # until a changed service has said so

Figures = dict[str, Any]


def name_services(count: int) -> list[str]:
    """As teams would call them."""
    return [f"painter-{index:05}" for index in range(count)]


async def measure_floor(plane: Plane, prepared: Prepared, services: int) -> Figures:
    """The bare client: seconds until all is there."""
    async with connected(plane, TOKEN) as looking, connected(plane) as client, following_statuses(looking) as statuses:
        started, used = time.perf_counter(), time.process_time()
        await for_each(name_services(services), lambda name: make_service(client, prepared, name))
        await statuses.wait_for(services)
        await wait_for_children(looking, prepared, services)
        seconds, used = time.perf_counter() - started, time.process_time() - used
    return {"seconds": round(seconds, 2), "cpu_milliseconds_per_service": round(used / services * 1e3, 2)}


async def measure_operator(plane: Plane, operator: OperatorProcess, prepared: Prepared, services: int) -> Figures:
    """The operator, from the first service to the last status; and until it has nothing more to say."""
    await operator.wait_until_ready()
    await operator.wait_until_quiet()
    async with connected(plane, TOKEN) as client, following_statuses(client) as statuses:
        line, cpu_before = plane.count_lines(), operator.cpu_seconds()
        reconciles_before = (await operator.read_figures())["easel_operator_reconciles_total"]
        idle_mib, started = operator.resident_mib(), time.perf_counter()
        await for_each(name_services(services), lambda name: create_service(client, name))
        watching = asyncio.create_task(operator.watch_over())
        await wait_for_first(watching, statuses.wait_for(services))
        watching.cancel()
        await wait_for_children(client, prepared, services)
        seconds, cpu = time.perf_counter() - started, operator.cpu_seconds() - cpu_before
    made = plane.count_requests(line)
    await operator.wait_until_quiet()
    requests = plane.count_requests(line)
    reconciles = (await operator.read_figures())["easel_operator_reconciles_total"] - reconciles_before
    return {
        "seconds": round(seconds, 2),
        "cpu_milliseconds_per_service": round(cpu / services * 1e3, 2),
        "cpu_milliseconds_per_service_until_quiet": round((operator.cpu_seconds() - cpu_before) / services * 1e3, 2),
        "reconciles_per_service": round(reconciles / services, 3),
        "writes_per_service": round(count_writes(made) / services, 3),
        "writes_per_service_until_quiet": round(count_writes(requests) / services, 3),
        "requests_per_service": round(requests.total() / services, 3),
        "requests": dict(sorted(requests.items())),
        "resident_mib_before": round(idle_mib, 1),
        "resident_mib": round(operator.resident_mib(), 1),
        "highest_resident_mib": round(operator.highest_resident_mib(), 1),
    }


async def wait_for_first(watching: "asyncio.Task[None]", work: Coroutine[Any, Any, None]) -> None:
    """Wait for the work, or for what makes waiting for it pointless."""
    task = asyncio.create_task(work)
    await asyncio.wait([watching, task], return_when=asyncio.FIRST_COMPLETED)
    if watching.done():
        task.cancel()
        await watching
    await task


async def measure_changes(
    plane: Plane, operator: OperatorProcess, prepared: Prepared, services: int, changes: int
) -> Figures:
    """One service after another gets another model; how long until the last child that it changes is written.

    The time begins before the change is sent and ends when its last child arrives at a watch, so both ways count.
    """
    source, seconds, children = random.Random(SEED), [], []  # noqa: S311 - a load, not a secret
    cpu_before = operator.cpu_seconds()
    async with connected(plane, TOKEN) as client, AsyncExitStack() as stack:
        arrivals: asyncio.Queue[tuple[float, Json]] = asyncio.Queue()
        for collection in sorted({*prepared.collections, SERVICES_OF_EASEL.path(NAMESPACE)}):
            following = asyncio.create_task(_follow(client.watch(collection), arrivals))
            stack.push_async_callback(_end, following)
        await asyncio.sleep(1)  # for the watches to begin: what they miss would only be waited for
        for number in range(changes):
            name = source.choice(name_services(services))
            taken = await _change(client, arrivals, name, f"revision-{number}")
            seconds.append(taken[0])
            children.append(taken[1])
    cpu = operator.cpu_seconds() - cpu_before
    return {
        "changes": changes,
        "seed": SEED,
        "median_milliseconds": round(statistics.median(seconds) * 1e3, 1),
        "p95_milliseconds": round(percentile(seconds, 95) * 1e3, 1),
        "longest_milliseconds": round(max(seconds) * 1e3, 1),
        "children_written_per_change": round(statistics.mean(children), 2),
        "cpu_milliseconds_per_change": round(cpu / changes * 1e3, 2),
    }


async def _follow(events: AsyncIterator[Json], arrivals: "asyncio.Queue[tuple[float, Json]]") -> None:
    async for event in events:
        arrivals.put_nowait((time.perf_counter(), event["object"]))


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _change(
    client: BareClient, arrivals: "asyncio.Queue[tuple[float, Json]]", name: str, revision: str
) -> tuple[float, int]:
    """Seconds until the last child, and how many children were written."""
    patch = {"spec": {"model": {"source": {"huggingFace": {"revision": revision}}}}}
    started, arrived_at, written = time.perf_counter(), 0.0, set()
    changed = await client.send("PATCH", SERVICES_OF_EASEL.path(NAMESPACE, name), patch, MERGE_PATCH)
    generation = changed["metadata"]["generation"]
    async with asyncio.timeout(CHANGE_SECONDS):
        while True:
            at, body = await arrivals.get()
            if body["kind"] != SERVICES_OF_EASEL.kind:
                if _is_of(body, name):
                    arrived_at = at
                    written.add((body["kind"], body["metadata"]["name"]))
            elif body["metadata"]["name"] == name and body["status"].get("observedGeneration") == generation:
                break
    if not written:
        raise RuntimeError(f"no child of {name} was written for its change")
    return arrived_at - started, len(written)


def _is_of(body: Json, name: str) -> bool:
    return bool(body["metadata"].get("labels", {}).get(names.LABEL_SERVICE) == name)


async def measure_idle(plane: Plane, operator: OperatorProcess, seconds: float) -> Figures:
    """Nothing happens: what the operator asks the API server for all the same."""
    await operator.wait_until_quiet()
    line, cpu_before = plane.count_lines(), operator.cpu_seconds()
    await asyncio.sleep(seconds)
    requests = plane.count_requests(line)
    return {
        "seconds": round(seconds),
        "requests_but_watches": sum(n for name, n in requests.items() if not name.startswith("watch ")),
        "requests": dict(sorted(requests.items())),
        "cores": round((operator.cpu_seconds() - cpu_before) / seconds, 4),
        "resident_mib": round(operator.resident_mib(), 1),
    }


async def measure_restart(plane: Plane, operator: OperatorProcess, services: int, started: float, line: int) -> Figures:
    """A new process over what is there: from its start until it leads and has looked at every service."""
    await operator.wait_until_ready()
    ready = time.perf_counter() - started
    await operator.wait_for_reconciles(services)
    steady = time.perf_counter() - started
    cpu = operator.cpu_seconds()
    await operator.wait_until_quiet()  # of what it writes later than that, none is to be missed
    requests = plane.count_requests(line)
    return {
        "ready_seconds": round(ready, 2),
        "steady_seconds": round(steady, 2),
        "cpu_seconds": round(cpu, 2),
        "writes": count_writes(requests),
        "requests": dict(sorted(requests.items())),
        "resident_mib": round(operator.resident_mib(), 1),
        "highest_resident_mib": round(operator.highest_resident_mib(), 1),
    }


def describe_share(floors: Sequence[Figures], operators: Sequence[Figures]) -> float:
    """The operator's time over the floor's, the median of the rounds' own shares."""
    shares: list[float] = [mine["seconds"] / floor["seconds"] for floor, mine in zip(floors, operators, strict=True)]
    return round(statistics.median(shares), 3)
