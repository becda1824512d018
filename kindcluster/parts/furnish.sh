#!/usr/bin/env bash
# mmdebstrap's hook of system.sh: puts kind's and Kubernetes' files into the file system $1 and leaves on what a node needs.
set -euo pipefail
root=$1 programs=$WORK/programs

install -D -m 755 -t "$root/usr/local/bin" "$KIND_FILES"/usr/local/bin/* "$PARTS/system/pod-network" "$programs/kube-router"
install -D -m 755 -t "$root/kind/bin" "$KIND_FILES"/kind/bin/*
install -D -m 644 -t "$root/etc/containerd" "$KIND_FILES"/etc/containerd/*
install -D -m 644 -t "$root/etc" "$KIND_FILES"/etc/crictl.yaml
install -D -m 644 -t "$root/etc/default" "$KIND_FILES"/etc/default/*
install -D -m 644 -t "$root/etc/sysctl.d" "$KIND_FILES"/etc/sysctl.d/*
find "$KIND_FILES/etc/systemd/system" -maxdepth 1 -type f -exec install -D -m 644 -t "$root/etc/systemd/system" {} +
install -D -m 644 -t "$root/etc/systemd/system" "$PARTS"/system/*.service
install -D -m 644 -t "$root/etc/systemd/system/kubelet.service.d" "$KIND_FILES"/etc/systemd/system/kubelet.service.d/*
install -D -m 755 -t "$root/usr/bin" "$programs/kubelet" "$programs/kubeadm" "$programs/kubectl"
install -D -m 644 -t "$root/kind/manifests" "$PARTS"/system/*.yaml # kind applies them once the API server is up
printf %s "$KUBERNETES_VERSION" >"$root/kind/version"
mkdir -p "$root/etc/kubernetes/manifests" "$root/opt/cni"
# Where kind and kubelets look for what Debian keeps elsewhere.
ln -s /usr/lib/cni "$root/opt/cni/bin"
ln -s /usr/bin/containerd "$root/usr/local/bin/containerd"
ln -s /usr/sbin/runc "$root/usr/local/sbin/runc"
[[ -e $root/sbin/init ]] || ln -s /lib/systemd/systemd "$root/sbin/init"

# A machine's services, which a container has no use for.
find "$root/lib/systemd/system/sysinit.target.wants/" -name systemd-tmpfiles-setup.service -delete
rm -f "$root"/lib/systemd/system/{multi-user,local-fs,basic}.target.wants/* "$root"/etc/systemd/system/*.wants/* \
  "$root"/lib/systemd/system/sockets.target.wants/*{udev,initctl}*
echo ReadKMsg=no >>"$root/etc/systemd/journald.conf"
chroot "$root" systemctl enable kubelet.service containerd.service undo-mount-hacks.service pod-network.service kube-router.service
chroot "$root" systemctl mask systemd-binfmt.service

pause=$("$programs/kubeadm" config images list --kubernetes-version "$KUBERNETES_VERSION" | grep /pause:)
settings=(-e "s#registry.k8s.io/pause:[^\"]*#$pause#")
# An engine without CAP_SYS_RESOURCE can't lower a process's chance of being killed below its own.
settings+=(-e 's/restrict_oom_score_adj = false/restrict_oom_score_adj = true/')
[[ $CGROUPS = v2 ]] || settings+=(-e 's/SystemdCgroup = true/SystemdCgroup = false/')
sed -i "${settings[@]}" "$root/etc/containerd/config.toml"
# As kind does it, but that jq is this machine's or the node's.
chroot "$root" sh -c 'ctr oci spec | jq ".hooks.createContainer += [{\"path\": \"/kind/bin/mount-product-files.sh\"}] | del(.process.rlimits)" \
  >/etc/containerd/cri-base.json'
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}/*
