#!/usr/bin/env bash
# Prints a directory with kind, kubectl and helm, for PATH. kind is the pinned version, which the node image asks for: a link to
# the one on PATH if that is it, else built by Go (seconds). kubectl and helm are those on PATH, else the embedded cluster's.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/versions.sh"
directory=${XDG_CACHE_HOME:-$HOME/.cache}/easel/tools/kind-$KIND_VERSION

mkdir -p "$directory"
if [[ ! -x $directory/kind ]]; then
  found=$(kind version -q 2>/dev/null || true)
  if [[ v${found#v} = "$KIND_VERSION" ]]; then
    ln -sf "$(command -v kind)" "$directory/kind"
  else
    command -v go >/dev/null || {
      echo "kindcluster/tools.sh: install kind $KIND_VERSION (on PATH: ${found:-none}), or Go, which builds it" >&2
      exit 1
    }
    echo "building kind $KIND_VERSION" >&2
    GOBIN=$directory CGO_ENABLED=0 go install -trimpath -ldflags "-s -w" "sigs.k8s.io/kind@$KIND_VERSION" >&2
  fi
fi
for tool in kubectl helm; do
  found=$(command -v $tool) || found=$(dirname "$("$here/../devcluster/binary.sh")")/$tool
  [[ $found = "$directory/$tool" ]] || ln -sf "$found" "$directory/$tool" # who has the directory on PATH
done
echo "$directory"
