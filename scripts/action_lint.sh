#!/usr/bin/env bash
# Prints the path of actionlint, building it if needed: seconds. Go checks what it fetches by its database of checksums.
# The path is the only thing on standard output.
set -euo pipefail

VERSION=v1.7.12
directory=${XDG_CACHE_HOME:-$HOME/.cache}/easel/tools/actionlint-$VERSION

if [[ ! -x $directory/actionlint ]]; then
  command -v go >/dev/null || {
    echo "scripts/action_lint.sh: install Go, which builds actionlint" >&2
    exit 1
  }
  echo "building actionlint $VERSION" >&2
  mkdir -p "$directory"
  GOBIN=$directory CGO_ENABLED=0 go install -trimpath -ldflags "-s -w" "github.com/rhysd/actionlint/cmd/actionlint@$VERSION" >&2
fi
echo "$directory/actionlint"
