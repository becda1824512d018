#!/usr/bin/env bash
# Makes a kind node image without pulling anything: Kubernetes, CoreDNS and kube-router as Go modules, all else from Debian.
# Prints its name. Some 4 minutes on 2 cores after the embedded cluster was built, whose Go cache serves; the image is kept in
# the engine and as an archive, by a hash of everything that it is made of.
#
#   ENGINE          docker or podman
#   XDG_CACHE_HOME  where the archive is kept (default ~/.cache)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/../versions.sh"
export ENGINE=${ENGINE:?docker or podman} KUBERNETES_VERSION COREDNS_VERSION NODE_DEBIAN
export DEVCLUSTER=$here/../../devcluster KIND_MODULE=sigs.k8s.io/kind@$KIND_VERSION
export CGROUPS=v1
[[ ! -e /sys/fs/cgroup/cgroup.controllers ]] || CGROUPS=v2

say() { echo "parts: $*" >&2; }

hash_parts() {
  { cat "$here/../versions.sh" "$DEVCLUSTER/go.mod" "$DEVCLUSTER/go.sum"; echo "$CGROUPS $(uname -m)"; } | cat - \
    <(cd "$here" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum) | sha256sum | cut -c1-12
}

need() { # what can't be done without, all of it named at once
  local missing=()
  for program in go gcc mmdebstrap; do command -v $program >/dev/null || missing+=($program); done
  [[ -e /usr/share/keyrings/debian-archive-keyring.gpg ]] || missing+=(debian-archive-keyring)
  [[ ${#missing[@]} = 0 ]] || { say "please install: ${missing[*]}"; exit 1; }
}

step() { # NAME: one of the scripts beside this one, with its time
  local begun=$SECONDS
  "$here/$1.sh" >"$WORK/$1.log" 2>&1 || { tail -20 "$WORK/$1.log" >&2; say "$1 failed (all of it: $WORK/$1.log)"; exit 1; }
  say "$1: $((SECONDS - begun)) s"
}

hash=$(hash_parts)
export IMAGE=localhost/easel-kind-node:$KUBERNETES_VERSION-$hash
cache=${XDG_CACHE_HOME:-$HOME/.cache}/easel/kind
archive=$cache/node-$KUBERNETES_VERSION-$hash.tar
mkdir -p "$cache"
exec 9>"$cache/lock" # held until this script ends: a second caller waits, then finds the image
flock 9
if ! "$ENGINE" image inspect "$IMAGE" >/dev/null 2>&1; then
  if [[ -e $archive ]]; then
    say "loading $archive"
    "$ENGINE" load -q -i "$archive" >&2
  else
    need
    export WORK=$cache/making-$hash
    mkdir -p "$WORK"
    for name in programs images system assemble; do step $name; done
    "$ENGINE" save -o "$archive.new" "$IMAGE" >&2
    mv "$archive.new" "$archive"
    rm -r "$WORK"
  fi
fi
echo "$IMAGE"
