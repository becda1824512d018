#!/usr/bin/env bash
# All tests but those of the night, in two processes side by side; tests/distribution.py says who runs what. Arguments go
# to pytest (scripts/test.sh -x; scripts/test.sh -m nightly).
set -euo pipefail
cd "$(dirname "$0")/.."

# Two processes share the machine: torch's threads of one would wait for the other's, and spin while they do.
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
export PYTHONHASHSEED=0 # the processes must call each test alike, also one that has a set in its name
exec .venv/bin/pytest -n 2 --dist loadscope --no-loadscope-reorder --durations=40 --durations-min=5 -m "not nightly" "$@"
