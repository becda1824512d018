"""``python -m benchmarks.simulator [traces] [orders]``: into benchmarks/results/simulator.json, and as tables.

``traces``: traces on a cluster and in the simulator, and how far they are apart, for each order of the queue; services
of both orders run side by side on the same cluster. ``orders``: how long a burst waits for the order for more pods.
``--again`` simulates all courses that were seen on a cluster with today's simulator.
"""

import argparse
import concurrent.futures
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from easel_contract.conditions import Reason
from easel_contract.resource import QueueOrder

from benchmarks.record import build_provenance
from benchmarks.simulator import world
from benchmarks.simulator.course import COURSES, Course, load_course
from benchmarks.simulator.measurement import run_bursts, run_trace
from benchmarks.simulator.report import build_record, list_figures, list_orders
from benchmarks.simulator.tables import write_tables
from demo import cluster as clusters
from demo.cluster import Cluster

RESULTS: Final = clusters.ROOT / "benchmarks/results/simulator.json"
PERIODS_SECONDS: Final = (2, 15)  # of the cluster's autoscaler: a short one, and Kubernetes' default
DIRECT_PERIOD_SECONDS: Final = 2  # of the cluster on which the operator's direct path is measured too
DURATION_SECONDS: Final = 600.0
SEEDS: Final = (5, 6, 7)
BURSTS: Final = 6
TRACES: Final = "traces"
ORDERS: Final = "orders"

Found = dict[str, dict[str, Any]]  # part → what of it → figures


def main() -> int:
    """Measure, write, print. Exit code 0; a missed goal is a figure like any other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {TRACES}, {ORDERS}; default: both")
    parser.add_argument("--seconds", type=float, default=DURATION_SECONDS, help="length of the trace")
    parser.add_argument("--seed", type=int, action="append", help="of a trace; default 5, 6 and 7")
    parser.add_argument("--period", type=int, action="append", help="of the autoscaler, in seconds; default 2 and 15")
    parser.add_argument("--bursts", type=int, default=BURSTS, help="for the time to an order")
    parser.add_argument("--again", action="store_true", help="simulate what was seen on a cluster again")
    parser.add_argument("--tables", action="store_true", help="only write the pages' tables of what is stored")
    parser.add_argument("--dry", action="store_true", help="print only, leave the result files alone")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - {TRACES, ORDERS}:
        parser.error(f"no part is called {', '.join(sorted(unknown))}; there are {TRACES} and {ORDERS}")
    for found in () if arguments.tables else simulate_again() if arguments.again else measure_all(arguments):
        if not arguments.dry:
            write(found)
        for name, record in found.get(TRACES, {}).items():
            sys.stdout.write("".join(f"{line}\n" for line in list_figures(name, record)))
        sys.stdout.write("".join(f"{line}\n" for line in list_orders(found.get(ORDERS, {}))))
    if not arguments.dry:
        write_tables(json.loads(RESULTS.read_text())[TRACES], clusters.ROOT)
    return 0


def measure_all(arguments: argparse.Namespace) -> Iterator[Found]:
    """The parts that were asked for, on a cluster for each period."""
    for period_seconds in arguments.period or PERIODS_SECONDS:
        with world.running_cluster(period_seconds) as cluster:
            for seed in (arguments.seed or SEEDS) if TRACES in (arguments.parts or (TRACES,)) else ():
                courses = run_orders(cluster, period_seconds, arguments.seconds, seed)
                if not arguments.dry:
                    for course in courses:
                        course.save()
                yield {TRACES: {course.name: compare(course) for course in courses}}
            if ORDERS in (arguments.parts or (ORDERS,)):
                by_autoscaler = run_bursts(cluster, period_seconds, arguments.bursts, Reason.FOLLOWING_DEMAND)
                yield {ORDERS: {f"autoscaler every {period_seconds} s": by_autoscaler}}
                if period_seconds == DIRECT_PERIOD_SECONDS:
                    world.switch_to_direct_path(cluster)
                    direct = run_bursts(cluster, period_seconds, arguments.bursts, Reason.DIRECT_SCALING)
                    yield {ORDERS: {"direct": direct}}


def run_orders(cluster: Cluster, period_seconds: int, seconds: float, seed: int) -> Sequence[Course]:
    """The same trace on a service of each order, at the same time: what else the machine does hits both."""
    orders = list(QueueOrder)
    with concurrent.futures.ThreadPoolExecutor(len(orders)) as threads:
        running = [threads.submit(run_trace, cluster, period_seconds, seconds, seed, order) for order in orders]
        return [course.result() for course in running]


def simulate_again() -> Iterator[Found]:
    """Each course beside today's simulator."""
    for path in sorted(COURSES.glob("*.json")):
        course = load_course(path)
        yield {TRACES: {course.name: compare(course)}}


def compare(course: Course) -> dict[str, Any]:
    """The course beside its simulation."""
    spec = world.load_spec(QueueOrder(course.queue_order))
    record = build_record(course, spec, world.read_engine_times(spec))
    return {**record, "simulated_at": build_provenance()["commit"]}


def write(found: Mapping[str, Mapping[str, Any]]) -> None:
    """Into the result file; what wasn't measured keeps its last figures."""
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for part, figures in found.items():
        kept[part] = {**kept.get(part, {}), **figures}
    RESULTS.write_text(json.dumps(kept, indent=2, allow_nan=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
