#!/usr/bin/env bash
# Builds both images with docker or podman, tagged as the chart expects them.
set -euo pipefail
cd "$(dirname "$0")/.."

engine=$(command -v docker || command -v podman) || { echo "images: docker or podman is needed" >&2; exit 1; }
version=$(sed -n 's/^appVersion: *//p' helm/easel/Chart.yaml)
for name in operator server; do
  "$engine" build -f "images/$name.Dockerfile" -t "ghcr.io/easel-dev/easel-$name:$version" .
done
