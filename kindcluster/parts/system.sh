#!/usr/bin/env bash
# The node's file system as the image $IMAGE-base, in the way of kind's images/base/Dockerfile: Debian with systemd, containerd,
# runc and CNI plug-ins, kind's own files from its Go module, Kubernetes' programs, and what of system/ is beside this script.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
go mod download "$KIND_MODULE"
export PARTS=$here KIND_FILES
KIND_FILES=$(go env GOMODCACHE)/$KIND_MODULE/images/base/files

packages=(systemd dbus containerd runc containernetworking-plugins)
packages+=(conntrack ipset iptables nftables iproute2 ethtool util-linux mount kmod procps ca-certificates curl jq bash)
mmdebstrap --variant=minbase --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
  --include="$(IFS=,; echo "${packages[*]}")" --customize-hook="$here/furnish.sh" "$NODE_DEBIAN" "$WORK/system.tar"
"$ENGINE" import --change 'ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]' --change 'ENV container=docker' \
  --change 'STOPSIGNAL SIGRTMIN+3' "$WORK/system.tar" "$IMAGE-base"
rm "$WORK/system.tar"
