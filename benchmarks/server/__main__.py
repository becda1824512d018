"""``python -m benchmarks.server [NAME...]``: measurements, into benchmarks/results/server.json and as a table."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.record import build_provenance
from benchmarks.server import cached, jobs, latency, memory
from benchmarks.server.processes import ROOT
from tests.support.redis_server import RedisServer

RESULTS = ROOT / "benchmarks/results/server.json"

MEASUREMENTS: dict[str, Callable[[RedisServer], dict[str, Any]]] = {
    "cached": lambda redis: cached.measure(redis, rounds=7, seconds=2.0),
    "jobs": lambda redis: jobs.measure(redis, rounds=5, jobs=2000),
    "latency": lambda redis: latency.measure(redis, rounds=3, requests=300),
    "memory": memory.measure,
}
GOALS = {
    "cached.512x512.share_of_bare.median": "at least 0.6",
    "cached.64x64.share_of_bare.median": "at least 0.6",
    "jobs.share_of_fastest.median": "at least 1.0",
    "latency.added_milliseconds_p50.median": "at most 10",
    "latency.added_milliseconds_p99.median": "at most 50",
    "memory.idle_mib.gateway": "at most 150",
    "memory.growth_mib.gateway": "none past the caches' budgets",
    "memory.growth_mib.worker": "none",
    "memory.growth_mib.redis_data": "none",
}


def main() -> int:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(MEASUREMENTS)}; default: all")
    parser.add_argument("--dry", action="store_true", help="print only, leave the result file alone")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(MEASUREMENTS):
        parser.error(f"no measurement is called {', '.join(sorted(unknown))}; there are {', '.join(MEASUREMENTS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the processes that were started are ended
    load_before = os.getloadavg()[0]
    results: dict[str, Any] = {}
    for name in arguments.names or MEASUREMENTS:
        sys.stderr.write(f"measuring {name}\n")
        with RedisServer() as redis:
            results[name] = MEASUREMENTS[name](redis)
        if not arguments.dry:
            write(results, load_before)
    sys.stdout.write("".join(f"{line}\n" for line in build_table(results)))
    return 0


def write(results: dict[str, Any], load_before: float) -> None:
    """Into the result file; measurements that weren't taken keep their last figures and date."""
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    provenance = {**build_provenance(), "load_average_before": round(load_before, 2)}
    for name, figures in results.items():
        kept[name] = {**figures, "measured": provenance}
    RESULTS.write_text(json.dumps(kept, indent=2) + "\n")


def build_table(results: dict[str, Any]) -> Iterator[str]:
    """Each figure that is a number, and the goal where there is one."""
    for name, value in _flatten(results, ""):
        yield f"{name:<72} {value:>10}  {GOALS.get(name, '')}".rstrip()


def _flatten(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield name, value
        return
    for key, inner in value.items():
        yield from _flatten(inner, f"{name}.{key}" if name else key)


if __name__ == "__main__":
    sys.exit(main())
