#!/usr/bin/env bash
# The node image $IMAGE, as `kind build node-image` makes it: $IMAGE-base, with the control plane's images in its containerd.
set -euo pipefail
container=$("$ENGINE" run -d --privileged --network none --entrypoint sleep "$IMAGE-base" infinity)
trap '"$ENGINE" rm -f "$container" >/dev/null' EXIT

"$ENGINE" exec -d "$container" sh -c 'containerd >/tmp/containerd.log 2>&1'
for _ in $(seq 100); do
  ! "$ENGINE" exec "$container" ctr version >/dev/null 2>&1 || break
  sleep 0.3
done
"$ENGINE" exec -i "$container" ctr --namespace=k8s.io images import --all-platforms --no-unpack --digests - <"$WORK/images.tar"
"$ENGINE" exec "$container" sh -c 'pkill containerd; while pgrep -x containerd >/dev/null; do sleep 0.1; done; rm -rf /tmp/containerd.log /run/containerd'
"$ENGINE" commit --change 'ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]' --change 'CMD []' "$container" "$IMAGE"
"$ENGINE" rm -f "$container" >/dev/null
trap - EXIT
"$ENGINE" image rm "$IMAGE-base" || true # podman keeps it as a layer without a name
rm "$WORK/images.tar"
