"""``make bench-scaling-loop``: the scaling loop over 1,000 services of 3 pods, into results/scaling-loop.json.

The operator's real scraper, planner and loop run in this process, against 3,000 real HTTP endpoints on the loopback
interface that other processes serve. Only this process's processor time counts; of the operator, the watches and the
API server are missing: nothing changes in the cluster meanwhile.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from easel_contract import names
from easel_operator.autoscaling.observation import PodSample
from easel_operator.cluster.external_metrics import ExternalMetricsServer
from easel_operator.cluster.object_store import ObjectStore
from easel_operator.cluster.scraper import Scraper, ScrapeTarget
from easel_operator.cluster.writer import ClusterWriter
from easel_operator.decide.snapshot import Capabilities
from easel_operator.handlers.scaling_loop import Actions, ScalingLoop, ServiceTick
from easel_operator.handlers.service_store import ServiceStore
from easel_operator.handlers.shared_state import SharedState
from easel_operator.main import METRICS_STALE_AFTER, SCRAPE_TIMEOUT_SECONDS, collect_garbage_seldom

from benchmarks.record import build_provenance
from benchmarks.scale.fleet import WORKERS, fill
from benchmarks.server.processes import ROOT, resident_mib
from benchmarks.server.samples import percentile
from tests.operator.fake_api import FakeApi

RESULTS = ROOT / "benchmarks/results/scaling-loop.json"
PROCESSES = 2  # that play workers; one more plays the gateways
PROBE_SECONDS = 0.01  # how often the event loop is asked whether it still answers
CAPABLE = Capabilities(
    is_metrics_api_ours=True, metrics_api_note="", is_scale_to_zero_supported=True, is_tolerance_supported=True
)


class TimedScraper(Scraper):
    """The scraper, and how long each pod's answer took."""

    pod_seconds: list[float]
    failures: int

    def begin(self) -> None:
        """Forget what was measured so far."""
        self.pod_seconds, self.failures = [], 0

    async def scrape(self, targets: Sequence[ScrapeTarget]) -> tuple[PodSample, ...]:
        samples = await super().scrape(targets)
        self.failures += sum(sample.error is not None for sample in samples)
        return samples

    async def _fetch(self, target: ScrapeTarget) -> str:
        started = time.perf_counter()
        page = await super()._fetch(target)
        self.pod_seconds.append(time.perf_counter() - started)
        return page


class TimedLoop(ScalingLoop):
    """The loop, and how long its ticks and the planner's part in each service took."""

    plan_seconds: list[float]
    tick_seconds: list[float]

    def begin(self) -> None:
        """Forget what was measured so far."""
        self.plan_seconds, self.tick_seconds = [], []

    async def tick(self) -> None:
        started = time.perf_counter()
        await super().tick()
        self.tick_seconds.append(time.perf_counter() - started)

    def _decide(self, tick: ServiceTick, samples: Sequence[PodSample], now: datetime) -> Actions | None:
        started = time.thread_time()  # of the processor: what else runs on this machine is not the planner's time
        follow_up = super()._decide(tick, samples, now)
        self.plan_seconds.append(time.thread_time() - started)
        return follow_up


@contextmanager
def serving(services: int, processes: int) -> Iterator[None]:
    """All pods answer while the body runs."""
    parts = [(names.COMPONENT_GATEWAY, 0, services, 1)]
    share = services // processes
    for part in range(processes):
        count = share if part < processes - 1 else services - share * part
        parts.append((names.COMPONENT_WORKER, services + share * part * WORKERS, count * WORKERS, WORKERS))
    with ExitStack() as stack:
        servers = []
        for part_of_all in parts:
            command = [sys.executable, "-m", "benchmarks.scale.pod_server", *map(str, part_of_all)]
            server = stack.enter_context(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE))
            stack.callback(server.terminate)
            servers.append(server)
        for server in servers:
            assert server.stdout is not None
            if server.stdout.readline() != b"ready\n":
                raise RuntimeError("the pods' server didn't come up; see above for the cause")
        yield


def now() -> datetime:
    """The clock of all parts."""
    return datetime.now(UTC)


async def measure(services: int, interval_seconds: float, seconds: float, warm_up_seconds: float) -> dict[str, Any]:
    """Run the loop for a while; the figures of what comes after the warm-up."""
    store, children = ServiceStore(on_change=lambda _: None), ObjectStore(on_change=lambda _: None)
    fill(store, children, services, now() - timedelta(hours=1))
    news: list[object] = []
    scraper = TimedScraper(timeout_seconds=SCRAPE_TIMEOUT_SECONDS, clock=now)
    scraper.begin()
    api = FakeApi()
    loop = TimedLoop(
        scraper=scraper,
        metrics_server=ExternalMetricsServer(stale_after=METRICS_STALE_AFTER, clock=now),
        writer=ClusterWriter(api, children, pod_name="operator-a", clock=now),
        services=store,
        children=children,
        shared=SharedState(CAPABLE),
        on_news=news.append,
        is_leader=lambda: True,
        clock=now,
    )
    loop.begin()
    running = asyncio.create_task(loop.run(interval_seconds))
    await asyncio.sleep(warm_up_seconds)
    scraper.begin()
    loop.begin()
    delays: list[float] = []
    probing = asyncio.create_task(_probe(delays))
    began, used = time.perf_counter(), time.process_time()
    await asyncio.sleep(seconds)
    wall, used = time.perf_counter() - began, time.process_time() - used
    for task in (running, probing):
        task.cancel()
    await asyncio.gather(running, probing, return_exceptions=True)
    await scraper.close()
    return {
        "services": services,
        "pods": services * (1 + WORKERS),
        "interval_seconds": interval_seconds,
        "measured_seconds": round(wall, 1),
        "cores": round(used / wall, 3),
        "cpu_microseconds_per_pod": round(used / len(scraper.pod_seconds) * 1e6),
        "scrape_pod_milliseconds": _quantiles(scraper.pod_seconds),
        "tick_milliseconds": _quantiles(loop.tick_seconds),
        "scrapes": len(scraper.pod_seconds),
        "scrapes_failed": scraper.failures,
        "planner_tick_milliseconds": _quantiles(loop.plan_seconds),
        "event_loop_delay_milliseconds": _quantiles(delays),
        "resident_mib": round(resident_mib(os.getpid())),
        "api_writes": len(api.writes),
    }


async def _probe(delays: list[float]) -> None:
    """How late the event loop is, all the while: what anybody else in the process waits."""
    while True:
        due = time.perf_counter() + PROBE_SECONDS
        await asyncio.sleep(PROBE_SECONDS)
        delays.append(max(0.0, time.perf_counter() - due))


def _quantiles(seconds: Sequence[float]) -> dict[str, float]:
    named = {"median": 50, "p95": 95, "p99": 99, "longest": 100}
    return {name: round(percentile(seconds, percent) * 1e3, 3) for name, percent in named.items()}


def main() -> int:
    """Measure, print, and write unless it is a dry run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--interval-seconds", type=float, default=5.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--warm-up-seconds", type=float, default=70.0, help="the counters' window fills in 60 s")
    parser.add_argument("--dry", action="store_true", help="print only, leave the result file alone")
    arguments = parser.parse_args()
    collect_garbage_seldom()
    load_before = round(os.getloadavg()[0], 2)
    with serving(arguments.services, PROCESSES):
        measuring = measure(
            arguments.services, arguments.interval_seconds, arguments.seconds, arguments.warm_up_seconds
        )
        result = {**build_provenance(), "load_average_before": load_before, **asyncio.run(measuring)}
    text = json.dumps(result, indent=2) + "\n"
    sys.stdout.write(text)
    if not arguments.dry:
        RESULTS.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
