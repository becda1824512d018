# Versions of what a kind cluster is made of, in one place; the scripts beside this one source it.
# Kubernetes is devcluster/go.mod's, so that both clusters are one version; CoreDNS is parts/coredns/go.mod's, the one that
# this Kubernetes' kubeadm names (parts/images.sh compares). Images of a control plane: `kubeadm config images list`.

_go_module() { awk -v module="$1" '$1 == module || $2 == module { print $NF; exit }' "$2"; } # MODULE GO.MOD

_kindcluster=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
KIND_VERSION=v0.33.0
# The node image that this kind was released with, its default: v1.37.0. There is none of each patch release, so it may differ
# from devcluster's in that.
KIND_NODE_IMAGE=docker.io/kindest/node@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5
KUBERNETES_VERSION=$(_go_module k8s.io/kubernetes "$_kindcluster/../devcluster/go.mod")
COREDNS_VERSION=$(_go_module github.com/coredns/coredns "$_kindcluster/parts/coredns/go.mod")
# Of the node made from parts: its systemd (252) still knows control groups v1, which newer ones have dropped.
NODE_DEBIAN=bookworm
# Of the stand-in for Redis' image: this release has valkey 8.1, as the chart asks for.
REDIS_DEBIAN=trixie
