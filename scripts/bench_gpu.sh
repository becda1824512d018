#!/usr/bin/env bash
# Measures on this machine's GPU with whatever Python has torch there: PYTHON, or the project's own environment.
# PACKAGES: an archive that `python -m benchmarks.gpu.packages` wrote where there is internet, for what is missing here.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
export PYTHONPATH=contract/src:operator/src:inference_server/src:.
export HF_HUB_OFFLINE=1
if [[ -n ${PACKAGES:-} ]]; then
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  tar -xzf "$PACKAGES" -C "$folder"
  PYTHONPATH+=:$folder
fi
"$python" -m benchmarks.gpu "$@"
