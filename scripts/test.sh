#!/usr/bin/env bash
# All tests, as two processes side by side: the server's spend their time in torch, most others wait for real servers.
# Arguments go to both (scripts/test.sh -x). What the second one says follows when both are through.
set -uo pipefail
cd "$(dirname "$0")/.."

export OMP_WAIT_POLICY=PASSIVE # torch's threads sleep while they wait: a core that spins is one that the other process lacks
log=$(mktemp)
.venv/bin/pytest --ignore=tests/inference_server "$@" >"$log" 2>&1 &
others=$!
trap 'kill "$others" 2>/dev/null; rm -f "$log"' EXIT

.venv/bin/pytest tests/inference_server "$@"
server=$?
wait "$others"
code=$?
cat "$log"
[ "$server" = 0 ] && [ "$code" = 0 ] || { echo "test: failed (the server's tests ended with $server, all others with $code)"; exit 1; }
