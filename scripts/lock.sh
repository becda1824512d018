#!/usr/bin/env bash
# Writes requirements/*.txt from pyproject.toml, and the lock of the npm clients that tests run: names, versions and
# hashes, for every platform and no download address.
set -euo pipefail
cd "$(dirname "$0")/.."
export UV_SYSTEM_CERTS=1

# lock NAME EXTRA...: one lock for the packages of these extras.
lock() {
  local name=$1 extras=()
  shift
  for extra in "$@"; do extras+=(--extra "$extra"); done
  compile "requirements/$name.txt" pyproject.toml "${extras[@]}"
}

compile() {
  .venv/bin/uv pip compile --output-file "$@" \
    --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet
}

lock operator operator
lock server server memcached tracing
lock bench-arq bench-arq
# A part of the server's: what both have has one version.
compile requirements/gateway.txt pyproject.toml --extra gateway --extra memcached --extra tracing \
  --constraint requirements/server.txt
compile requirements/images.txt --group images
lock dev cli operator server memcached tracing bench dev

(cd tests/clients/npm && npm install --package-lock-only --omit-lockfile-registry-resolved --no-audit --no-fund >/dev/null)
