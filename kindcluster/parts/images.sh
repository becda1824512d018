#!/usr/bin/env bash
# Images of the control plane from $WORK/programs, under the names that this Kubernetes' kubeadm asks for, as one archive
# $WORK/images.tar. None of them stays in the engine.
set -euo pipefail
programs=$WORK/programs
mapfile -t images < <("$programs/kubeadm" config images list --kubernetes-version "$KUBERNETES_VERSION")

make_image() { # NAME PROGRAM: reads its files as an archive from standard input
  "$ENGINE" import --change 'ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' --change "ENTRYPOINT [\"/usr/local/bin/$2\"]" - "$1"
}

for image in "${images[@]}"; do
  name=${image##*/} program=
  program=${name%%:*}
  if [[ $program = coredns && $image != *:$COREDNS_VERSION ]]; then
    echo "kubeadm $KUBERNETES_VERSION asks for $image; parts/coredns/go.mod has $COREDNS_VERSION: change it there (go get, go mod tidy)" >&2
    exit 1
  fi
  files=$WORK/image-$program.tar
  if [[ $program = kube-proxy ]]; then # it calls nft, iptables and conntrack
    mmdebstrap --variant=essential --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
      --include=nftables,iptables,conntrack,kmod --customize-hook="copy-in '$programs/kube-proxy' /usr/local/bin" \
      --customize-hook='rm -rf "$1"/usr/share/doc/* "$1"/usr/share/man/* "$1"/usr/share/locale/*' "$NODE_DEBIAN" "$files"
  else
    root=$(mktemp -d)
    mkdir -p "$root/tmp" "$root/etc/ssl" "$root/usr/local/bin"
    cp "$programs/$program" "$root/usr/local/bin/"
    tar -C "$root" -cf "$files" .
    rm -r "$root"
  fi
  make_image "$image" "$program" <"$files"
  rm "$files"
done

multiple=() # docker saves several images as they are; podman has to be asked
[[ $ENGINE != podman ]] || multiple=(--format docker-archive --multi-image-archive)
"$ENGINE" save "${multiple[@]}" -o "$WORK/images.tar" "${images[@]}"
"$ENGINE" image rm "${images[@]}"
