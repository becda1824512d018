#!/usr/bin/env bash
# Prints the node image of a kind cluster, which the container engine then has. The first of these that there is:
#   1. EASEL_KIND_NODE_IMAGE, if set
#   2. kindest/node of the pinned version, from its registry
#   3. one made from parts (parts/build.sh), where no registry answers: Go modules and Debian packages are all it needs
# ENGINE says which engine, docker or podman. The name is the only thing on standard output; which one it is, and why, goes to
# standard error.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/versions.sh"
: "${ENGINE:?docker or podman}"

say() { echo "node image: $*" >&2; }

if [[ -n "${EASEL_KIND_NODE_IMAGE:-}" ]]; then
  say "$EASEL_KIND_NODE_IMAGE, as EASEL_KIND_NODE_IMAGE says"
  echo "$EASEL_KIND_NODE_IMAGE"
elif "$ENGINE" image inspect "$KIND_NODE_IMAGE" >/dev/null 2>&1 || timeout 600 "$ENGINE" pull "$KIND_NODE_IMAGE" >/dev/null 2>&1; then
  say "$KIND_NODE_IMAGE"
  echo "$KIND_NODE_IMAGE"
else
  say "no registry gives $KIND_NODE_IMAGE: a stand-in of Kubernetes $KUBERNETES_VERSION, made from parts on this machine"
  "$here/parts/build.sh"
fi
