#!/usr/bin/env bash
# Prints a directory with kind, kubectl and helm, for PATH: links to those on PATH; where there are none, kind of the pinned
# version by Go (seconds) and kubectl and helm from the embedded cluster's binary.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/versions.sh"
directory=${XDG_CACHE_HOME:-$HOME/.cache}/easel/tools/kind-$KIND_VERSION

mkdir -p "$directory"
if [[ ! -x $directory/kind ]]; then
  if found=$(command -v kind); then
    ln -sf "$found" "$directory/kind"
  else
    command -v go >/dev/null || {
      echo "kindcluster/tools.sh: install kind $KIND_VERSION, or Go, which builds it" >&2
      exit 1
    }
    echo "building kind $KIND_VERSION" >&2
    GOBIN=$directory CGO_ENABLED=0 go install -trimpath -ldflags "-s -w" "sigs.k8s.io/kind@$KIND_VERSION" >&2
  fi
fi
for tool in kubectl helm; do
  found=$(command -v $tool) || found=$(dirname "$("$here/../devcluster/binary.sh")")/$tool
  ln -sf "$found" "$directory/$tool"
done
echo "$directory"
