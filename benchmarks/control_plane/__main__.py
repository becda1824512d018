"""``make bench-operator``: the operator on a real control plane beside a bare client, into results/operator.json.

Floor and operator take turns, each on a control plane of its own with nothing stored.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.control_plane.floor import prepare
from benchmarks.control_plane.measure import (
    Figures,
    describe_share,
    measure_changes,
    measure_floor,
    measure_idle,
    measure_operator,
    measure_restart,
)
from benchmarks.control_plane.operator_process import running_operator
from benchmarks.control_plane.plane import ABSENT_CONTROLLERS, Plane, running_plane
from benchmarks.record import build_provenance
from benchmarks.server.processes import ROOT
from tests.support.redis_server import RedisServer

RESULTS: Final = ROOT / "benchmarks/results/operator.json"
SIZES: Final = {"1000": 1000, "5000": 5000}
CHANGES: Final = 200
IDLE_SECONDS: Final = 600.0
ROUNDS: Final = {"1000": 3, "5000": 1}
QUICK_SERVICES: Final = 50
QUICK_CHANGES: Final = 20
QUICK_IDLE_SECONDS: Final = 10.0


def measure(
    services: int, *, rounds: int, changes: int, idle_seconds: float, log: Path, profiler: list[str]
) -> Figures:
    """All that is measured with so many services."""
    floors: list[Figures] = []
    operators: list[Figures] = []
    more: Figures = {}
    for number in range(rounds):
        with RedisServer() as redis:
            prepared = prepare(redis.url)
            with running_plane() as plane:
                floors.append(asyncio.run(measure_floor(plane, prepared, services)))
                say(services, "floor", floors[-1])
            with running_plane() as plane:
                with running_operator(plane, redis.url, log, *profiler) as operator:
                    operators.append(asyncio.run(measure_operator(plane, operator, prepared, services)))
                    say(services, "operator", operators[-1])
                    if number == rounds - 1:
                        more["change"] = asyncio.run(measure_changes(plane, operator, prepared, services, changes))
                        say(services, "change", more["change"])
                        more["idle"] = asyncio.run(measure_idle(plane, operator, idle_seconds))
                        say(services, "idle", more["idle"])
                if number == rounds - 1:
                    more["restart"] = _restart(plane, redis.url, log, services)
                    say(services, "restart", more["restart"])
    return {
        "services": services,
        "writes_of_the_floor_per_service": prepared.writes,
        "children_per_service": len(prepared.children),
        "share_of_the_floor": describe_share(floors, operators),
        "floor": floors,
        "operator": operators,
        **more,
    }


def _restart(plane: Plane, redis_url: str, log: Path, services: int) -> Figures:
    line, started = plane.count_lines(), time.perf_counter()
    with running_operator(plane, redis_url, log) as operator:
        return asyncio.run(measure_restart(plane, operator, services, started, line))


def say(services: int, what: str, figures: Figures) -> None:
    """Progress, on standard error."""
    sys.stderr.write(f"{services} services, {what}: {json.dumps(figures)}\n")


def main() -> int:
    """Measure, print, and write unless it is a dry run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", choices=[[], *SIZES], help="how many services; all sizes if none is named")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SERVICES} services, one round, seconds")
    parser.add_argument("--services", type=int, default=QUICK_SERVICES, help="with --quick: how many")
    parser.add_argument("--idle-seconds", type=float, default=IDLE_SECONDS)
    parser.add_argument("--profiler", default="", help="a command before the operator's own")
    parser.add_argument("--dry", action="store_true", help="print only, leave the result file alone")
    arguments = parser.parse_args()
    before: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    load_before = round(os.getloadavg()[0], 2)
    with tempfile.TemporaryDirectory(prefix="easel-bench-") as directory:
        log = Path(directory) / "operator.log"
        try:
            found = _measure_sizes(arguments, log)
        except BaseException:
            if log.exists():
                sys.stderr.write(log.read_text()[-4000:])
            raise
    sizes = {**before.get("sizes", {}), **found}
    result = {
        "machine": build_provenance()["machine"],
        "pods": f"none on either side: the control plane runs without {' and '.join(ABSENT_CONTROLLERS)}",
        "sizes": {
            name: {**build_provenance(), "load_average_before": load_before, **figures} if name in found else figures
            for name, figures in sizes.items()
        },
    }
    text = json.dumps(result, indent=2) + "\n"
    sys.stdout.write(text)
    if not arguments.dry and not arguments.quick:
        RESULTS.write_text(text)
    return 0


def _measure_sizes(arguments: argparse.Namespace, log: Path) -> dict[str, Figures]:
    profiler = arguments.profiler.split()
    if arguments.quick:
        return {
            "quick": measure(
                arguments.services,
                rounds=1,
                changes=QUICK_CHANGES,
                idle_seconds=min(arguments.idle_seconds, QUICK_IDLE_SECONDS),
                log=log,
                profiler=profiler,
            )
        }
    return {
        name: measure(
            SIZES[name],
            rounds=ROUNDS[name],
            changes=CHANGES,
            idle_seconds=arguments.idle_seconds,
            log=log,
            profiler=profiler,
        )
        for name in arguments.only or SIZES
    }


if __name__ == "__main__":
    sys.exit(main())
