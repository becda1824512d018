"""``make bench-demo``: how long set-up and each phase of the demo take, in benchmarks/results/demo.json.

With ``--cold`` set-up also runs in a fresh clone with empty caches (Python packages, Go modules and builds, the
embedded cluster's binary), as on a new machine; that downloads gigabytes and compiles Kubernetes. Without it the last
cold figure stays in the file, with its date.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.record import build_provenance
from demo import cluster as clusters
from demo.story import run_demo

PHASE = re.compile(r"setup: (?P<name>[A-Za-z ]+): (?P<seconds>\d+) s$")
RESULTS = clusters.ROOT / "benchmarks/results/demo.json"


def measure_setup(folder: Path, environment: dict[str, str]) -> tuple[float, dict[str, int]]:
    """Seconds that scripts/setup.sh takes in a checkout, and its phases', some of which run beside each other."""
    begun = time.monotonic()
    said = []
    command = ["make", "setup"]
    with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr or ():
            sys.stderr.write(line)
            said.append(line)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return round(time.monotonic() - begun, 2), read_phases(said)


def read_phases(said: Iterable[str]) -> dict[str, int]:
    """Seconds by phase, of the lines in which set-up says them."""
    return {found["name"]: int(found["seconds"]) for line in said if (found := PHASE.match(line))}


def measure_cold_setup() -> dict[str, Any]:
    """Set-up of a fresh clone with empty caches. Debian packages that are there already stay there."""
    with tempfile.TemporaryDirectory(prefix="easel-cold-") as folder:
        clone, cache = Path(folder) / "easel", Path(folder) / "cache"
        subprocess.run(["git", "clone", "--quiet", clusters.ROOT, clone], check=True)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ["HOME"],
            "XDG_CACHE_HOME": str(cache),
            "UV_CACHE_DIR": str(cache / "uv"),
            "PIP_CACHE_DIR": str(cache / "pip"),
            "GOCACHE": str(cache / "go-build"),
            "GOMODCACHE": str(cache / "go-modules"),
            "GOFLAGS": "-modcacherw",
        }
        load = round(os.getloadavg()[0], 1)
        seconds, phases = measure_setup(clone, environment)
        return {
            "setup_cold_seconds": seconds,
            "setup_cold_phases_seconds": phases,
            "setup_cold_load_average": load,
            "setup_cold_at": build_provenance(),
        }


def main() -> int:
    """Exit code of the demo: not 0 when a request was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cold", action="store_true", help="measure set-up with empty caches too")
    arguments = parser.parse_args()
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    setup = {key: kept[key] for key in kept if key.startswith("setup_cold_")}
    if arguments.cold:
        setup = measure_cold_setup()
    setup["setup_warm_seconds"], _ = measure_setup(clusters.ROOT, dict(os.environ))
    setup["load_average"] = round(os.getloadavg()[0], 1)  # of the last minute: what else the machine was doing
    state = clusters.ROOT / ".state" / "bench-demo"
    done = run_demo(state, clusters.ROOT / "demo-output")
    sys.stdout.write(clusters.stop(state) + "\n")
    result = {**build_provenance(), **setup, **done.to_record()}
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    for name, seconds in {"set-up, warm": setup["setup_warm_seconds"], **done.phases_seconds}.items():
        sys.stdout.write(f"{name:<20} {seconds:>7.1f} s\n")
    return done.exit_code


if __name__ == "__main__":
    sys.exit(main())
