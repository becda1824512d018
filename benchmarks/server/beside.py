"""``python -m benchmarks.server.beside REV``: this tree beside an older commit, turn by turn on one machine.

Every turn is a process of its own in a checkout of its commit, with a Redis of its own; the two take turns, and who
begins changes from round to round. What counts is the share within a round: a machine's moods meet both. Figures go
into benchmarks/results/beside.json and onto the terminal. The older commit gets an environment of its own, from its own
lock, and must have benchmarks/server much as it is here.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import geometric_mean
from typing import Any, Final

from benchmarks.record import build_provenance
from benchmarks.server.processes import ROOT
from benchmarks.server.samples import summarize

RESULTS: Final = ROOT / "benchmarks/results/beside.json"
ROUNDS: Final = 5
TURN_TIMEOUT_SECONDS: Final = 300
SOURCES: Final = ("contract/src", "operator/src", "inference_server/src", "")

# Each prints figures of one turn as JSON; more is better in all of them.
TURNS: Final = {
    "jobs": """
turn = jobs.take_turn(redis, 2000, 1)
print(json.dumps({"durable_jobs_per_second": turn.jobs_per_second}))
""",
    # Not cached.measure: the bare server that it compares with is of this tree's environment.
    "cached": """
figures = {}
with deployment.deployed(deployment.build_config(), redis, 1) as service:
    for side in cached.SIDES_PIXELS:
        order = {"prompt": "a lighthouse at dawn, oil on canvas", "size": f"{side}x{side}", "seed": 7}
        for _ in range(2):
            service.post(cached.PATH, order)
        for kind, headers in (("cached", {}), ("cached_routed", cached.ROUTED_HEADERS)):
            request = raw_http.build_request("POST", cached.PATH, json.dumps(order).encode(), headers)
            load_order = {"kind": "rate", "port": service.port, "connections": cached.CONNECTIONS}
            for seconds in (1.0, 3.0):
                seen = load.generate({**load_order, "seconds": seconds}, request)
            figures[f"{kind}_{side}x{side}_per_second"] = seen["statuses"]["200"] / seen["seconds"]
print(json.dumps(figures))
""",
    "latency": """
seen = latency.measure(redis, rounds=1, requests=200)
print(json.dumps({f"inverse_added_latency_{p}": 1 / seen[f"added_milliseconds_{p}"]["median"] for p in ("p50", "p99")}))
""",
}
PROGRAM: Final = """
import json
from benchmarks.server import cached, deployment, jobs, latency, load, raw_http
from tests.support.redis_server import RedisServer
with RedisServer() as redis:
"""


def main() -> int:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("revision", help="the commit to compare with")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(TURNS)}; default: all")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(TURNS):
        parser.error(f"no measurement is called {', '.join(sorted(unknown))}; there are {', '.join(TURNS)}")
    load_before = os.getloadavg()[0]
    with checked_out(arguments.revision) as before:
        shares: dict[str, list[float]] = {}
        for name in arguments.names or TURNS:
            for number in range(ROUNDS):
                sys.stderr.write(f"measuring {name}, round {number + 1} of {ROUNDS}\n")
                for figure, share in take_round(name, before, begins_before=number % 2 == 0).items():
                    shares.setdefault(figure, []).append(share)
        beside = _git(before, "rev-parse", "--short", "HEAD")
    figures = {figure: summarize(values).to_record() for figure, values in shares.items()}
    record = {**build_provenance(), "load_average_before": round(load_before, 2), "beside": beside, "shares": figures}
    record["geometric_mean_of_medians"] = round(geometric_mean([one["median"] for one in figures.values()]), 3)
    RESULTS.write_text(json.dumps(record, indent=2) + "\n")
    for figure, summary in figures.items():
        sys.stdout.write(
            f"{figure:<40} {summary['median']:.3f}  ({summary['lowest']:.3f} to {summary['highest']:.3f})\n"
        )
    return 0


@contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """A checkout of the commit, for as long as the block lasts."""
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory) / "before"
        _git(ROOT, "worktree", "add", "--detach", str(tree), revision)
        try:
            _install(tree)
            yield tree
        finally:
            _git(ROOT, "worktree", "remove", "--force", str(tree))


def _install(tree: Path) -> None:
    """What the checkout's own lock names, and the checkout itself; mostly links into the installer's cache."""
    uv = [sys.executable, "-m", "uv"]
    python = ["--python", str(tree / ".venv/bin/python")]
    for command in (
        [*uv, "venv", "--quiet", "--python", sys.executable, str(tree / ".venv")],
        [*uv, "pip", "sync", "--quiet", *python, "--require-hashes", "requirements/dev.txt"],
        [*uv, "pip", "install", "--quiet", *python, "--no-deps", "--no-build-isolation", "--editable", "."],
    ):
        subprocess.run(command, cwd=tree, check=True)


def take_round(name: str, before: Path, *, begins_before: bool) -> dict[str, float]:
    """Each figure of this tree as a share of the older one's."""
    trees = (before, ROOT) if begins_before else (ROOT, before)
    seen = {tree: take_turn(name, tree) for tree in trees}
    return {figure: value / seen[before][figure] for figure, value in seen[ROOT].items()}


def take_turn(name: str, tree: Path) -> dict[str, float]:
    """The figures of one turn in a checkout."""
    program = PROGRAM + "".join(f"    {line}\n" for line in TURNS[name].strip().splitlines())
    done = subprocess.run(
        [tree / ".venv/bin/python", "-c", program],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(str(tree / source) for source in SOURCES)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=TURN_TIMEOUT_SECONDS,
    )
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _git(tree: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=tree, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
