"""``make chaos``: the long form, into benchmarks/results/chaos.json and the tables of docs/platform/chaos.md."""

import argparse
import json
import os
import random
import sys
from pathlib import Path
from typing import Final

from benchmarks.pages import replace_part
from benchmarks.record import build_provenance
from chaos.report import build_page, list_hard_faults
from chaos.run import run_chaos
from chaos.world import VALUES, World, running_cluster
from demo.cluster import ROOT

JOBS: Final = 100_000
RESULTS: Final = ROOT / "benchmarks/results/chaos.json"
PAGE: Final = ROOT / "docs/platform/chaos.md"
PART: Final = "make chaos"


def main() -> int:
    """Exit code: 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--jobs", type=int, default=int(os.environ.get("CHAOS_JOBS") or JOBS))
    parser.add_argument(
        "--seed", type=int, default=os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(10**6)
    )
    parser.add_argument("--dry", action="store_true", help="show the record, write no file")
    parser.add_argument(
        "--only", default=os.environ.get("ONLY", ""), help="kinds of faults by parts of their names, a|b"
    )
    arguments = parser.parse_args()
    if arguments.only:
        arguments.dry = True  # a part is no record of the whole
    before = os.getloadavg()[0]
    with running_cluster() as cluster:
        world = World(cluster)
        world.apply()
        run = run_chaos(world, "long", arguments.seed, arguments.jobs, only=arguments.only, values=VALUES)
    loads = {"load_average_before": round(before, 1), "load_average_after": round(os.getloadavg()[0], 1)}
    record = {**build_provenance(), **loads, **run}
    sys.stdout.write(f"\n{build_page(record)}\n")
    if not arguments.dry:
        _write(record, RESULTS, PAGE)
    faults = list_hard_faults(record)
    for fault in faults:
        sys.stdout.write(f"BROKEN {fault}\n")
    return 1 if faults else 0


def _write(record: dict[str, object], results: Path, page: Path) -> None:
    results.write_text(json.dumps(record, indent=2) + "\n")
    page.write_text(replace_part(page.read_text(), PART, build_page(record)))


if __name__ == "__main__":
    sys.exit(main())
