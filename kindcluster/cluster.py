"""Making a kind cluster, finding it again, and taking it down."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kindcluster.command import ClusterError, run_aloud
from kindcluster.engine import FOLDER, Engine

CGROUPS_V2 = Path("/sys/fs/cgroup/cgroup.controllers")
MODULES = Path("/lib/modules")  # of the kernel; kind mounts it into its nodes


@dataclass(frozen=True)
class Layout:
    """What a cluster is made with, once."""

    name: str
    workers: int  # nodes beside the control plane's; 0: its one node takes pods
    mounts: tuple[Path, ...] = ()  # directories of this machine, at the same place on each node
    hpa_sync_seconds: int = 15

    @property
    def nodes(self) -> list[str]:
        """Containers of the nodes that take pods, as kind names them."""
        if self.workers == 0:
            return [f"{self.name}-control-plane"]
        return [f"{self.name}-worker{number if number > 1 else ''}" for number in range(1, self.workers + 1)]


def build_configuration(layout: Layout, image: str, *, has_cgroups_v2: bool) -> dict[str, Any]:
    """kind's configuration of a cluster."""
    node = {
        "image": image,
        "extraMounts": [{"hostPath": str(each), "containerPath": str(each)} for each in layout.mounts],
    }
    plane = {"role": "control-plane", **(node if layout.workers == 0 else {"image": image})}
    period = {"name": "horizontal-pod-autoscaler-sync-period", "value": f"{layout.hpa_sync_seconds}s"}
    # One of each stands against nobody, and ends when a busy machine keeps it from renewing its lease.
    alone = {"name": "leader-elect", "value": "false"}
    changes = (("controllerManager", period), ("controllerManager", alone), ("scheduler", alone))
    kubelet = {"kind": "KubeletConfiguration", "failCgroupV1": False, "cgroupDriver": "cgroupfs"}
    return {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "featureGates": {"HPAScaleToZero": True},
        "networking": {"kubeProxyMode": "nftables"},
        "kubeadmConfigPatches": [] if has_cgroups_v2 else [json.dumps(kubelet)],
        "kubeadmConfigPatchesJSON6902": [
            {
                "group": "kubeadm.k8s.io",
                "version": "v1beta4",
                "kind": "ClusterConfiguration",
                # A merge would replace the lists, and with them what kind says there.
                "patch": json.dumps(
                    [{"op": "add", "path": f"/{part}/extraArgs/-", "value": value} for part, value in changes]
                ),
            }
        ],
        "nodes": [plane, *({"role": "worker", **node} for _ in range(layout.workers))],
    }


def start(engine: Engine, layout: Layout, kubeconfig: Path) -> bool:
    """Make the cluster, or find it; write its kubeconfig. Whether it is new. Raises ClusterError.

    One that is there stays as it is, whatever ``layout`` says: it is stopped first to become another.
    """
    if layout.name in engine.kind("get", "clusters").split():
        engine.kind("export", "kubeconfig", "--name", layout.name, "--kubeconfig", kubeconfig)
        return False
    _make_modules_folder()
    image = run_aloud(FOLDER / "node_image.sh", env=engine.environment)
    configuration = build_configuration(layout, image, has_cgroups_v2=CGROUPS_V2.exists())
    engine.kind(
        "create", "cluster", "--name", layout.name, "--kubeconfig", kubeconfig, "--wait", "300s", "--config", "-",
        stdin=json.dumps(configuration),
    )  # fmt: skip
    return True


def _make_modules_folder() -> None:
    """A kernel without modules has none, and an engine can't mount what isn't there."""
    try:
        MODULES.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ClusterError(
            f"kind mounts {MODULES}, which isn't there and can't be made: {error}; make it as root"
        ) from error


def stop(engine: Engine, name: str) -> str:
    """Take a cluster down, with its nodes' volumes; what was done. Raises ClusterError."""
    return engine.kind("delete", "cluster", "--name", name)
