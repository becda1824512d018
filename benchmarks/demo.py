"""``make bench-demo``: how long set-up and each phase of the demo take, in benchmarks/results/demo.json.

With ``--cold`` set-up also runs in a fresh clone with empty caches (Python packages, Go modules and builds, the
embedded cluster's binary), as on a new machine; that downloads gigabytes and compiles Kubernetes. Without it the last
cold figure stays in the file, with its date.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import build_provenance
from demo import cluster as clusters
from demo.story import run_demo

RESULTS = clusters.ROOT / "benchmarks/results/demo.json"


def measure_setup(folder: Path, environment: dict[str, str]) -> float:
    """Seconds that scripts/setup.sh takes in a checkout."""
    begun = time.monotonic()
    subprocess.run(["make", "setup"], cwd=folder, env=environment, check=True)
    return round(time.monotonic() - begun, 2)


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
        return {"setup_cold_seconds": measure_setup(clone, environment), "setup_cold_at": build_provenance()}


def main() -> int:
    """Exit code of the demo: not 0 when a request was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cold", action="store_true", help="measure set-up with empty caches too")
    arguments = parser.parse_args()
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    setup = {key: kept[key] for key in ("setup_cold_seconds", "setup_cold_at") if key in kept}
    if arguments.cold:
        setup = measure_cold_setup()
    setup["setup_warm_seconds"] = measure_setup(clusters.ROOT, dict(os.environ))
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
