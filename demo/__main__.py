"""``python -m demo up`` and ``python -m demo down``: see README.md, *Two commands*."""

import argparse
import sys
from pathlib import Path

from demo import cluster as clusters
from demo.story import run_demo
from images.engine import EngineError

STATE = clusters.ROOT / ".state" / "demo"


def main() -> int:
    """Exit code: 0, or 1 when a request was lost or a step failed."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("action", choices=("up", "down"))
    parser.add_argument("--output", type=Path, default=clusters.ROOT / "demo-output", help="first image and plot")
    arguments = parser.parse_args()
    try:
        if arguments.action == "down":
            sys.stdout.write(f"{clusters.stop(STATE)}\n")
            return 0
        return run_demo(STATE, arguments.output).exit_code
    except (clusters.ClusterError, EngineError, TimeoutError) as error:
        sys.stderr.write(f"demo: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
