"""A Kubernetes to run on: the embedded one, kind, or whatever a kubeconfig points to. Install the chart there.

``CLUSTER`` chooses: ``embedded`` (default); ``kind`` (needs docker or podman: docs/platform/kind.md), under the name
that ``EASEL_KIND_CLUSTER`` says, ``easel`` if it doesn't; ``kubeconfig`` (the current context of KUBECONFIG; needs
kubectl, helm, and reachable images).
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kindcluster import cluster as kind_clusters
from kindcluster import pod_images
from kindcluster.cluster import Layout
from kindcluster.command import ClusterError, run, run_aloud
from kindcluster.engine import find_engine

# fmt: off
__all__ = [
    "NAMESPACE", "NODES", "RELEASE", "ROOT", "Cluster", "ClusterError", "devcluster_binary", "install_chart",
    "list_settings", "make_models", "make_volumes", "read_kind_name", "run", "start", "start_kind", "stop",
]
# fmt: on

ROOT = Path(__file__).resolve().parent.parent
NAMESPACE = "easel-system"
RELEASE = "easel"
ENV_KIND_CLUSTER = "EASEL_KIND_CLUSTER"
DEFAULT_KIND_CLUSTER = "easel"
KIND_IMAGES = {name: name for name in ("operator", "gateway", "worker")}  # which image what runs has there
KIND_WORKERS = 2
# One node without a GPU and two with: four workers don't fit on one of them. Extended resources, no real GPUs.
NODES = ("cpu-0", "gpu-0:nvidia.com/gpu=2", "gpu-1:nvidia.com/gpu=2")


@dataclass(frozen=True)
class Cluster:
    """How to reach a cluster that is up."""

    kind: str  # embedded | kind | kubeconfig
    kubeconfig: Path
    kubectl_path: str
    helm_path: str
    models: Path  # on the nodes
    state: Path
    image_values: tuple[str, ...] = ()  # Helm's arguments for images that aren't named as the chart names them

    @property
    def environment(self) -> dict[str, str]:
        """The environment for commands that talk to the cluster."""
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig)}

    def kubectl(self, *words: str, stdin: str | None = None) -> str:
        """Standard output of kubectl."""
        return run(self.kubectl_path, *words, env=self.environment, stdin=stdin)

    def helm(self, *words: str) -> str:
        """Standard output of helm."""
        return run(self.helm_path, *words, env=self.environment)

    def get(self, *words: str) -> dict[str, Any]:
        """An object or list as JSON."""
        answer: dict[str, Any] = json.loads(self.kubectl("get", *words, "-o", "json"))
        return answer


def devcluster_binary() -> str:
    """Path of the embedded cluster's binary; built or fetched if it isn't there."""
    done = subprocess.run([ROOT / "devcluster/binary.sh"], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise ClusterError("the embedded cluster's binary could not be had (see above)")
    return done.stdout.strip()


def make_models(directory: Path) -> None:
    """Tiny pipelines with the real architecture classes: made once on a machine, then copied."""
    if (directory / "sdxl" / "model_index.json").exists():
        return
    kept = _kept_models()
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            made = Path(folder) / "models"
            run(sys.executable, ROOT / "scripts/make_tiny_models.py", made)
            # safetensors writes files that only their owner can read; the workers run as another user.
            for path in (made, *made.rglob("*")):
                path.chmod(0o755 if path.is_dir() else 0o644)
            with suppress(OSError):  # another process was faster: the same models
                made.rename(kept)
    shutil.copytree(kept, directory, dirs_exist_ok=True)


def _kept_models() -> Path:
    """Where they are kept, by what makes them: the code, and the libraries by the lock."""
    sources = sorted((ROOT / "tests/support/tiny_models").glob("*.py"))
    content = b"".join(path.read_bytes() for path in (*sources, ROOT / "requirements/dev.txt"))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "easel" / f"tiny-models-{hashlib.sha256(content).hexdigest()[:16]}"


def start(
    state: Path, *, hpa_sync_seconds: int = 15, nodes: Sequence[str] = NODES, network_policies: bool = False
) -> Cluster:
    """A cluster of the kind that CLUSTER names, with volumes for Redis and the tiny models. Idempotent.

    ``hpa_sync_seconds`` is for the embedded one and kind; ``nodes``, and whether ``network_policies`` are enforced, for
    the embedded one. The others have their own.
    """
    kind = os.environ.get("CLUSTER", "embedded")
    state.mkdir(parents=True, exist_ok=True)
    models = state / "models"
    make_models(models)
    if kind == "embedded":
        cluster = _start_embedded(state, models, hpa_sync_seconds, nodes, network_policies=network_policies)
    elif kind == "kind":
        cluster = _start_kind(state, models, hpa_sync_seconds)
    elif kind == "kubeconfig":
        kubeconfig = Path(os.environ.get("KUBECONFIG", Path.home() / ".kube/config"))
        cluster = Cluster(kind, kubeconfig, _tool("kubectl"), _tool("helm"), models, state)
    else:
        raise ClusterError(f"CLUSTER={kind}: expected embedded, kind or kubeconfig")
    if kind != "kubeconfig":
        make_volumes(cluster)
    return cluster


def stop(state: Path) -> str:
    """Takes the cluster down; nothing of it is left. Returns what was done."""
    kind = os.environ.get("CLUSTER", "embedded")
    if kind == "embedded":
        said = run(devcluster_binary(), "down", "--state-dir", state / "cluster")
    elif kind == "kind":
        said = kind_clusters.stop(find_engine(), read_kind_name())
    else:
        return "the cluster of your kubeconfig was left as it is; `helm uninstall easel -n easel-system` removes Easel"
    shutil.rmtree(state, ignore_errors=True)
    return said.strip()


def list_settings(cluster: Cluster) -> list[str]:
    """Helm's arguments for what a cluster of one machine can't have as the chart asks for it."""
    settings = [*cluster.image_values]
    if cluster.kind != "kubeconfig":
        settings += ["--set-string", "redis.persistence.storageClassName=", "--set", "operator.replicas=1"]
    if cluster.kind == "embedded":  # whose nodes count no disk
        for amount in ("requests", "limits"):
            settings += ["--set", f"operator.resources.{amount}.ephemeral-storage=null"]
    return settings


def install_chart(cluster: Cluster, *values: str) -> None:
    """``helm upgrade --install`` of the chart, until its pods are ready. ``values`` are --set arguments."""
    settings = [*list_settings(cluster), *(word for value in values for word in ("--set", value))]
    cluster.helm(
        "upgrade", "--install", RELEASE, str(ROOT / "helm/easel"), "--namespace", NAMESPACE, "--create-namespace",
        "--wait", "--timeout", "5m", *settings,
    )  # fmt: skip
    for state in ("create", "condition=Available"):  # the operator registers it once it serves
        cluster.kubectl("wait", f"--for={state}", "apiservice/v1beta1.external.metrics.k8s.io", "--timeout=60s")


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise ClusterError(f"{name} is not on PATH; install it, or use CLUSTER=embedded, which brings its own")
    return path


def _start_embedded(
    state: Path, models: Path, hpa_sync_seconds: int, nodes: Sequence[str], *, network_policies: bool
) -> Cluster:
    binary = devcluster_binary()
    images = state / "images.yaml"
    images.write_text(_image_map())
    run(
        binary, "up", "--state-dir", state / "cluster", "--images", images,
        "--hpa-sync-period", f"{hpa_sync_seconds}s", *(word for node in nodes for word in ("--node", node)),
        *(["--network-policies"] if network_policies else []),
    )  # fmt: skip
    tools = Path(binary).parent
    return Cluster("embedded", state / "cluster/kubeconfig", str(tools / "kubectl"), str(tools / "helm"), models, state)


def _image_map() -> str:
    """Which command stands for which image: the chart's pod specs run unchanged, as processes of this checkout."""
    search_path = f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
    modules = os.environ.get("PYTHONPATH", "")  # of a checkout beside the one that the environment was made for
    return textwrap.dedent(f"""\
        images:
        - name: ghcr.io/easel-dev/easel-operator
          entrypoint: [easel-operator]
          user: 65532
          env: {{PATH: "{search_path}", PYTHONPATH: "{modules}", PYTHONUNBUFFERED: "1"}}
        - name: ghcr.io/easel-dev/easel-gateway
          entrypoint: [easel-server]
          user: 65532
          env: {{PATH: "{search_path}", PYTHONPATH: "{modules}", PYTHONUNBUFFERED: "1"}}
        - name: ghcr.io/easel-dev/easel-worker
          entrypoint: [easel-server]
          user: 65532
          # No cgroups here, so a pod's CPU limit can't be read from them.
          env: {{PATH: "{search_path}", PYTHONPATH: "{modules}", PYTHONUNBUFFERED: "1", EASEL_TORCH_THREADS: "1"}}
        - name: docker.io/valkey/valkey
          entrypoint: [redis-server]
          user: 999
          env: {{PATH: "{search_path}"}}
        """)


def read_kind_name() -> str:
    """Of the kind cluster."""
    return os.environ.get(ENV_KIND_CLUSTER) or DEFAULT_KIND_CLUSTER


def _start_kind(state: Path, models: Path, hpa_sync_seconds: int) -> Cluster:
    redis = state / "redis"
    redis.mkdir(exist_ok=True)
    layout = Layout(read_kind_name(), KIND_WORKERS, (models, redis), hpa_sync_seconds)
    cluster = start_kind(state, layout, KIND_IMAGES)
    patch = json.dumps({"status": {"capacity": {"nvidia.com/gpu": "2"}}})
    for node in layout.nodes:
        cluster.kubectl("patch", "node", node, "--subresource=status", "--type=merge", "-p", patch)
    return cluster


def start_kind(state: Path, layout: Layout, images: Mapping[str, str]) -> Cluster:
    """A kind cluster with the images of this checkout on its nodes; those that have changed since are loaded again.

    ``images``: which image what runs has, such as worker → worker; no others are built.
    """
    engine = find_engine()
    base = os.environ.get("BASE")  # as of `make images`
    only = ("--only", " ".join(sorted(set(images.values()))))
    run_aloud(ROOT / "scripts/images.sh", *only, *(("--base", base) if base else ()), env=engine.environment)
    kubeconfig = state / "kubeconfig"
    kind_clusters.start(engine, layout, kubeconfig)
    references = pod_images.list_references(engine, ROOT / "helm/easel", images)
    found = pod_images.read_images(engine, references)
    pod_images.load_images(engine, layout.name, layout.nodes, found, state)
    kubectl, helm = (str(engine.tools / tool) for tool in ("kubectl", "helm"))
    return Cluster("kind", kubeconfig, kubectl, helm, state / "models", state, tuple(pod_images.list_values(found)))


def build_volume(name: str, path: Path, mode: str, namespace: str, claim: str) -> dict[str, Any]:
    """A directory of this machine as a PersistentVolume, bound to a claim by its name."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "8Gi"},
            "accessModes": [mode],
            "storageClassName": "",
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": str(path)},
            "claimRef": {"namespace": namespace, "name": claim},
        },
    }


def make_volumes(cluster: Cluster) -> None:
    """What a platform team provides: a volume for Redis and one with the models, bound by name."""
    redis = cluster.state / "redis"
    redis.mkdir(exist_ok=True)
    redis.chmod(0o777)  # whatever user the image runs as

    volumes = [
        build_volume("redis", redis, "ReadWriteOnce", NAMESPACE, f"data-{RELEASE}-redis-0"),
        build_volume("tiny-model", cluster.models, "ReadOnlyMany", "default", "tiny-model"),
    ]
    for item in volumes:
        cluster.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(item))
