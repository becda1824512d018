#!/usr/bin/env bash
# Brings what images are built with where no engine answers: podman, and mmdebstrap for BASE=debian, from Debian's packages.
# Idempotent. `make setup` doesn't call it: who has docker needs nothing of it. Where apt can't be used, it names what is missing.
set -euo pipefail

say() { echo "images/setup.sh: $*" >&2; }

missing=()
if ! docker info >/dev/null 2>&1; then
  for program in podman buildah runc; do command -v "$program" >/dev/null || missing+=("$program"); done
  for package in netavark aardvark-dns uidmap; do
    dpkg-query -W "$package" >/dev/null 2>&1 || missing+=("$package")
  done
fi
command -v mmdebstrap >/dev/null || missing+=(mmdebstrap)
[ ${#missing[@]} = 0 ] && exit 0

command -v apt-get >/dev/null || { say "please install: ${missing[*]}"; exit 1; }
sudo=()
if [ "$(id -u)" != 0 ]; then
  sudo -n true 2>/dev/null || { say "please run: sudo apt-get install --no-install-recommends ${missing[*]}"; exit 1; }
  sudo=(sudo -n)
fi
say "installing Debian packages: ${missing[*]}"
# RUNLEVEL=1 keeps packages from starting their services: podman needs none.
"${sudo[@]}" apt-get update -qq
"${sudo[@]}" env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
