#!/usr/bin/env bash
# Prints the path of the embedded cluster's binary, making it if needed. Beside it lie the links
# kubectl and helm. The path is the only thing on standard output; progress goes to standard error.
#
#   EASEL_KUBE_BINARIES      a directory that holds devcluster: use that one
#   EASEL_DEVCLUSTER_URL     download it from there, once
#   EASEL_DEVCLUSTER_SHA256  what the download must be (required with the URL)
#   XDG_CACHE_HOME           where binaries are kept (default ~/.cache)
set -euo pipefail

fail() {
  echo "devcluster/binary.sh: $*" >&2
  exit 1
}

if [[ -n "${EASEL_KUBE_BINARIES:-}" ]]; then
  [[ -x "$EASEL_KUBE_BINARIES/devcluster" ]] ||
    fail "EASEL_KUBE_BINARIES is set, but there is no program $EASEL_KUBE_BINARIES/devcluster"
  echo "$EASEL_KUBE_BINARIES/devcluster"
  exit 0
fi

source_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/easel/devcluster
kubernetes_version=$(awk '$1 == "k8s.io/kubernetes" { print $2; exit }' "$source_dir/go.mod")

# The name changes with the source, so that a stale binary is never used.
source_hash() {
  cd "$source_dir"
  find . -type f \( -name '*.go' ! -name '*_test.go' -o -name go.mod -o -name go.sum \) -print0 |
    LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -c1-16
}

download() { # $1: target
  echo "downloading the embedded cluster from $EASEL_DEVCLUSTER_URL" >&2
  curl --fail --silent --show-error --location --retry 3 --output "$1" "$EASEL_DEVCLUSTER_URL" ||
    fail "the download of $EASEL_DEVCLUSTER_URL failed"
  echo "$EASEL_DEVCLUSTER_SHA256  $1" | sha256sum --check --status ||
    fail "what $EASEL_DEVCLUSTER_URL serves is not $EASEL_DEVCLUSTER_SHA256, as EASEL_DEVCLUSTER_SHA256 demands"
  chmod +x "$1"
}

build() { # $1: target
  command -v go >/dev/null ||
    fail "install Go ($(awk '$1 == "go" { print $2; exit }' "$source_dir/go.mod") or newer), or set EASEL_KUBE_BINARIES or EASEL_DEVCLUSTER_URL"
  echo "building the embedded cluster: some 7 to 13 minutes on 2 cores the first time" >&2
  local version=k8s.io/component-base/version number=${kubernetes_version#v}
  local major=${number%%.*} rest=${number#*.}
  (cd "$source_dir" && go build -o "$1" \
    -ldflags "-s -w -X $version.gitVersion=$kubernetes_version -X $version.gitMajor=$major -X $version.gitMinor=${rest%%.*}" .) >&2 ||
    fail "the build failed (see above)"
}

if [[ -n "${EASEL_DEVCLUSTER_URL:-}" ]]; then
  [[ -n "${EASEL_DEVCLUSTER_SHA256:-}" ]] || fail "EASEL_DEVCLUSTER_URL needs EASEL_DEVCLUSTER_SHA256 beside it"
  target_dir=$cache/download-${EASEL_DEVCLUSTER_SHA256:0:16}
  make=download
else
  target_dir=$cache/$kubernetes_version-$(source_hash)
  make=build
fi
target=$target_dir/devcluster

if [[ ! -x "$target" ]]; then
  mkdir -p "$target_dir"
  exec 9>"$target_dir.lock" # held until this script ends: a second caller waits, then finds the binary
  flock 9
  if [[ ! -x "$target" ]]; then
    temporary=$(mktemp "$target_dir/.devcluster.XXXXXX")
    trap 'rm -f "$temporary"' EXIT
    "$make" "$temporary"
    chmod 0755 "$temporary"
    ln -sf devcluster "$target_dir/kubectl"
    ln -sf devcluster "$target_dir/helm"
    mv "$temporary" "$target"
  fi
fi
echo "$target"
