#!/usr/bin/env bash
# Prints the engine's image for $1 (repository:tag of a valkey): that one, if the engine has it or a registry gives it; else a
# stand-in with Debian's valkey, under a name of its own, said on standard error. ENGINE says which engine, docker or podman.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/versions.sh"
: "${ENGINE:?docker or podman}"
wanted=${1:?repository:tag}
stand_in=localhost/easel-kind-valkey:$REDIS_DEBIAN

if "$ENGINE" image inspect "$wanted" >/dev/null 2>&1 || timeout 300 "$ENGINE" pull "$wanted" >/dev/null 2>&1; then
  echo "$wanted"
  exit 0
fi
echo "redis image: no registry gives $wanted: a stand-in, Debian $REDIS_DEBIAN's valkey ($stand_in)" >&2
if ! "$ENGINE" image inspect "$stand_in" >/dev/null 2>&1; then
  archive=$(mktemp)
  trap 'rm -f "$archive"' EXIT
  mmdebstrap --quiet --variant=essential --keyring=/usr/share/keyrings/debian-archive-keyring.gpg --format=tar \
    --include=valkey-server,valkey-tools \
    --customize-hook='rm -rf "$1"/usr/share/doc/* "$1"/usr/share/man/* "$1"/usr/share/locale/*' "$REDIS_DEBIAN" "$archive" >&2
  "$ENGINE" import --change 'ENTRYPOINT ["valkey-server"]' \
    --change 'ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' "$archive" "$stand_in" >&2
fi
echo "$stand_in"
