#!/usr/bin/env bash
# Programs of the node and of the control plane into $WORK/programs, linked statically: their images hold nothing else.
# Kubernetes', etcd and kube-router come from devcluster/go.mod with the flags of devcluster/binary.sh, so that its cache serves.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
programs=$WORK/programs
mkdir -p "$programs"

# A copy: what only these programs import isn't locked there. Go checks it by its database of checksums.
cp "$DEVCLUSTER/go.mod" "$DEVCLUSTER/go.sum" "$WORK/"
version=k8s.io/component-base/version number=${KUBERNETES_VERSION#v1.}
flags="-s -w -linkmode external -extldflags -static"
flags+=" -X $version.gitVersion=$KUBERNETES_VERSION -X $version.gitMajor=1 -X $version.gitMinor=${number%%.*} -X $version.gitTreeState=clean"
for package in \
  k8s.io/kubernetes/cmd/{kubelet,kubeadm,kubectl,kube-apiserver,kube-controller-manager,kube-scheduler,kube-proxy} \
  github.com/cloudnativelabs/kube-router/v2/cmd/kube-router go.etcd.io/etcd/server/v3; do
  program=${package##*/}
  [[ $program != v3 ]] || program=etcd
  (cd "$DEVCLUSTER" && go build -mod=mod -modfile="$WORK/go.mod" -ldflags "$flags" -o "$programs/$program" "$package")
done
(cd "$here/coredns" && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$programs/coredns" .)
# The process that holds a pod's namespaces is C, and part of Kubernetes' module.
kubernetes=$(cd "$DEVCLUSTER" && go list -m -f '{{.Dir}}' k8s.io/kubernetes)
gcc -Os -static -DVERSION="$KUBERNETES_VERSION" -o "$programs/pause" "$kubernetes/build/pause/linux/pause.c"
