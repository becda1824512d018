#!/usr/bin/env bash
# Brings .venv-arq, in which arq is measured: it wants an older redis-py than the server does.
set -euo pipefail
cd "$(dirname "$0")/.."

STAMP=.venv-arq/.installed-$(sha256sum requirements/bench-arq.txt | cut -c1-16)
[ -e "$STAMP" ] && exit
echo "bench: installing Python packages from requirements/bench-arq.txt" >&2
export UV_SYSTEM_CERTS=1 # as scripts/setup.sh
.venv/bin/uv venv -q --clear --python .venv/bin/python .venv-arq
.venv/bin/uv pip sync -q --python .venv-arq/bin/python --require-hashes requirements/bench-arq.txt
touch "$STAMP"
