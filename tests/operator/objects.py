"""Kubernetes objects as the API server would send them, for tests: a service, its pods and its children's status."""

from datetime import UTC, datetime
from typing import Any, Final

from easel_contract import names
from easel_operator.decide.snapshot import Capabilities, Snapshot
from easel_operator.manifests.metadata import Owner, Release
from easel_operator.objects import Json, ObjectKey, to_object_key

NOW: Final = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
RELEASE: Final = Release(
    worker_image="registry.example/easel-worker:0.1.0",
    gateway_image="registry.example/easel-gateway:0.1.0",
    redis_url="redis://redis.easel.svc:6379/0",
)
OWNER: Final = Owner("studio", "painter", "8f3b4c52-0000-4000-8000-000000000001")
CAPABLE: Final = Capabilities(
    is_metrics_api_ours=True, metrics_api_note="", is_scale_to_zero_supported=True, is_tolerance_supported=True
)
HUB_MODEL: Final = {"source": {"huggingFace": {"repository": "stabilityai/sdxl-turbo"}}}


def build_service(spec: Json | None = None, **status: Any) -> Json:
    """A StableDiffusionService; two to eight workers unless another spec is given."""
    default = {"model": HUB_MODEL, "scaling": {"minReplicas": 0, "maxReplicas": 8}}
    return {
        "apiVersion": f"{names.API_GROUP}/{names.API_VERSION}",
        "kind": names.KIND,
        "metadata": {
            "namespace": OWNER.namespace,
            "name": OWNER.name,
            "uid": OWNER.uid,
            "generation": 3,
            "resourceVersion": "1000",
        },
        "spec": default if spec is None else spec,
        **({"status": status} if status else {}),
    }


def build_pod(component: str, name: str = "", *, is_ready: bool = True, **changes: Any) -> Json:
    """A pod of a component; ``changes`` replace members of its status."""
    status: Json = {
        "phase": "Running",
        "podIP": "10.244.0.7",
        "conditions": [
            {"type": "PodScheduled", "status": "True"},
            {"type": "Ready", "status": "True" if is_ready else "False"},
        ],
        "containerStatuses": [
            {
                "name": names.CONTAINER_NAME,
                "ready": is_ready,
                "restartCount": 0,
                "state": {"running": {"startedAt": "2026-11-23T11:00:00Z"}},
                "lastState": {},
            }
        ],
    }
    return {
        "metadata": {
            "namespace": OWNER.namespace,
            "name": name or f"{OWNER.name}-{component}-a",
            "labels": {
                names.LABEL_SERVICE: OWNER.name,
                names.LABEL_COMPONENT: component,
                names.LABEL_TEMPLATE_HASH: "7d4b9",
            },
            "ownerReferences": [{"kind": "ReplicaSet", "name": f"{OWNER.name}-{component}-7d4b9", "controller": True}],
        },
        "spec": {"nodeName": "node-a"},
        "status": {**status, **changes},
    }


def build_unschedulable_pod(name: str) -> Json:
    """A worker pod that no node can take."""
    pod = build_pod(names.COMPONENT_WORKER, name, is_ready=False, phase="Pending")
    pod["spec"] = {}
    pod["status"]["containerStatuses"] = []
    pod["status"]["conditions"] = [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
        }
    ]
    return pod


def build_container_status(
    *, waiting: str = "", message: str = "", ended: Json | None = None, restarts: int = 0
) -> Json:
    """Status of a server container that isn't ready."""
    state: Json = {"waiting": {"reason": waiting, "message": message}} if waiting else {"running": {}}
    return {
        "name": names.CONTAINER_NAME,
        "image": RELEASE.worker_image,
        "ready": False,
        "restartCount": restarts,
        "state": state,
        "lastState": {"terminated": ended} if ended else {},
    }


def settle(deployment: Json, replicas: int) -> Json:
    """The Deployment as it is once all its pods are there."""
    counts = dict.fromkeys(("replicas", "updatedReplicas", "availableReplicas", "readyReplicas"), replicas)
    metadata = {**deployment["metadata"], "generation": 1}
    spec = {**deployment["spec"], "replicas": replicas}
    return {**deployment, "metadata": metadata, "spec": spec, "status": {"observedGeneration": 1, **counts}}


def index(*children: Json) -> dict[ObjectKey, Json]:
    """Children by key."""
    return {to_object_key(child): child for child in children}


def build_snapshot(service: Json | None = None, **changes: Any) -> Snapshot:
    """A snapshot of a service without children or pods, with ``changes``."""
    values: dict[str, Any] = {
        "service": build_service() if service is None else service,
        "children": {},
        "pods": (),
        "capabilities": CAPABLE,
        "release": RELEASE,
        "now": NOW,
    }
    return Snapshot(**{**values, **changes})
