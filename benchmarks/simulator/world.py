"""An embedded cluster of the measurement's own, with the chart and the service on it."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import yaml
from easel_cli.simulate.service_file import load_service
from easel_contract.conditions import Reason
from easel_contract.resource import QueueOrder, StableDiffusionServiceSpec

from benchmarks.simulator.workload import EngineTimes
from demo import cluster as clusters
from demo.cluster import Cluster

MANIFEST: Final = Path(__file__).parent / "service.yaml"
NODES: Final = ("cpu-0", "gpu-0:nvidia.com/gpu=8", "gpu-1:nvidia.com/gpu=8")  # two services of at most 8 pods
READY_SECONDS: Final = 180
SCALING_SECONDS: Final = 60


@contextmanager
def running_cluster(hpa_sync_seconds: int) -> Iterator[Cluster]:
    """A cluster with the chart installed; nothing of it is left afterwards."""
    state = clusters.ROOT / ".state" / f"bench-simulator-{os.getpid()}"
    try:
        cluster = clusters.start(state, hpa_sync_seconds=hpa_sync_seconds, nodes=NODES)
        clusters.install_chart(cluster)
        yield cluster
    finally:
        clusters.stop(state)


@contextmanager
def running_service(cluster: Cluster, name: str, **scaling: Any) -> Iterator[str]:
    """The service of the manifest with changes to its ``spec.scaling``, Ready; deleted with its pods afterwards."""
    manifest = load_manifest(scaling)
    manifest["metadata"]["name"] = name
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    try:
        cluster.kubectl("wait", "--for=condition=Ready", f"sds/{name}", f"--timeout={READY_SECONDS}s")
        yield name
    finally:
        cluster.kubectl("delete", "sds", name, "--wait=true")
        cluster.kubectl("wait", "--for=delete", "pod", "-l", f"easel.dev/service={name}", "--timeout=90s")


def load_manifest(scaling: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with changes to its ``spec.scaling``."""
    manifest: dict[str, Any] = yaml.safe_load(MANIFEST.read_text())
    manifest["spec"]["scaling"].update(scaling)
    return manifest


def load_spec(order: QueueOrder) -> StableDiffusionServiceSpec:
    """The manifest's spec, validated as `easel simulate` does it, with this order of the queue."""
    spec = load_service(MANIFEST).spec
    if spec.scaling is None:
        raise ValueError(f"{MANIFEST} has no spec.scaling")
    return spec.model_copy(update={"scaling": spec.scaling.model_copy(update={"queue_order": order})})


def read_engine_times(spec: StableDiffusionServiceSpec) -> EngineTimes:
    """What the service's engine takes."""
    synthetic = spec.worker.engine.synthetic
    return EngineTimes(
        synthetic.milliseconds_per_step / 1000, synthetic.milliseconds_per_image / 1000, synthetic.load_seconds
    )


def switch_to_direct_path(cluster: Cluster) -> None:
    """Lets the operator write scales itself, as where another adapter owns the external metrics API."""
    chart = str(clusters.ROOT / "helm/easel")
    cluster.helm(
        "upgrade", clusters.RELEASE, chart, "--namespace", clusters.NAMESPACE, "--reuse-values",
        "--set", "externalMetrics.mode=Disabled", "--wait", "--timeout", "3m",
    )  # fmt: skip


def wait_for_scaling(cluster: Cluster, service: str, reason: Reason) -> None:
    """Until the service's ScalingActive has this reason. Raises ClusterError."""
    path = '{.status.conditions[?(@.type=="ScalingActive")].reason}'
    cluster.kubectl("wait", f"--for=jsonpath={path}={reason}", f"sds/{service}", f"--timeout={SCALING_SECONDS}s")
