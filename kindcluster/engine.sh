#!/usr/bin/env bash
# Prints the environment of the container engine that answers, docker or podman (a client alone is none), as assignments for
# a shell: ENGINE, KIND_EXPERIMENTAL_PROVIDER, and for podman where needed CONTAINERS_CONF. KIND_EXPERIMENTAL_PROVIDER
# (kind's own variable) and CONTAINERS_CONF are kept where they are set.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

find_engine() {
  local engine
  for engine in ${KIND_EXPERIMENTAL_PROVIDER:-docker podman}; do
    if timeout 20 "$engine" info >/dev/null 2>&1; then
      echo "$engine"
      return
    fi
  done
  echo "kindcluster/engine.sh: no ${KIND_EXPERIMENTAL_PROVIDER:-docker or podman} answers \`info\`: start one (podman needs no service), or install it" >&2
  return 1
}

ENGINE=$(find_engine)
printf 'ENGINE=%q\nKIND_EXPERIMENTAL_PROVIDER=%q\n' "$ENGINE" "$ENGINE"
if [[ $ENGINE = podman && ! -e /sys/fs/cgroup/cgroup.controllers ]]; then # control groups v1
  printf 'CONTAINERS_CONF=%q\n' "${CONTAINERS_CONF:-$here/containers.conf}"
fi
