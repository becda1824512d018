#!/usr/bin/env bash
# Builds the images (arguments: `scripts/images.sh --help`); any Python of 3.11 or newer does.
set -euo pipefail
cd "$(dirname "$0")/.."

for python in .venv/bin/python "${PYTHON:-}" python3.14 python3.13 python3.12 python3.11 python3; do
  [ -n "$python" ] && command -v "$python" >/dev/null || continue
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && exec "$python" -m images "$@"
done
echo "images: Python 3.11 or newer is needed; install it or set PYTHON to one" >&2
exit 1
