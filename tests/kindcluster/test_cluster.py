"""What kind is given: nodes, the HPA's period, and what control groups of the old kind take."""

import json
from pathlib import Path

from kindcluster.cluster import Layout, build_configuration

IMAGE = "docker.io/kindest/node@sha256:0a1b"


def test_one_node_takes_pods_itself() -> None:
    layout = Layout("small", workers=0, mounts=(Path("/srv/models"),))
    configuration = build_configuration(layout, IMAGE, has_cgroups_v2=True)
    assert configuration["nodes"] == [
        {
            "role": "control-plane",
            "image": IMAGE,
            "extraMounts": [{"hostPath": "/srv/models", "containerPath": "/srv/models"}],
        }
    ]
    assert layout.nodes == ["small-control-plane"]


def test_workers_take_the_pods_and_have_the_mounts() -> None:
    layout = Layout("large", workers=2, mounts=(Path("/srv/models"),))
    plane, *workers = build_configuration(layout, IMAGE, has_cgroups_v2=True)["nodes"]
    assert "extraMounts" not in plane
    assert [worker["role"] for worker in workers] == ["worker", "worker"]
    assert all(worker["extraMounts"] for worker in workers)
    assert layout.nodes == ["large-worker", "large-worker2"]  # as kind names its containers


def test_the_hpa_looks_as_often_as_asked_and_nothing_stands_for_election() -> None:
    layout = Layout("quick", workers=0, hpa_sync_seconds=5)
    (patch,) = build_configuration(layout, IMAGE, has_cgroups_v2=True)["kubeadmConfigPatchesJSON6902"]
    changes = [(change["path"], change["value"]) for change in json.loads(patch["patch"])]
    assert changes == [
        ("/controllerManager/extraArgs/-", {"name": "horizontal-pod-autoscaler-sync-period", "value": "5s"}),
        ("/controllerManager/extraArgs/-", {"name": "leader-elect", "value": "false"}),
        ("/scheduler/extraArgs/-", {"name": "leader-elect", "value": "false"}),
    ]


def test_kubelets_accept_old_control_groups_where_there_are_no_others() -> None:
    layout = Layout("old", workers=0)
    assert build_configuration(layout, IMAGE, has_cgroups_v2=True)["kubeadmConfigPatches"] == []
    (patch,) = build_configuration(layout, IMAGE, has_cgroups_v2=False)["kubeadmConfigPatches"]
    assert json.loads(patch) == {
        "kind": "KubeletConfiguration",
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
    }
