"""Facts for checks: a cluster and a service where all is well, with changes."""

from datetime import UTC, datetime
from typing import Any, Final

from easel_cli.doctor.facts import ClusterFacts, ServiceFacts

NOW: Final = datetime(2026, 11, 27, 10, 0, tzinfo=UTC)
GPU: Final = "nvidia.com/gpu"


def build_pod(component: str, namespace: str = "art", **status: Any) -> dict[str, Any]:
    container = {
        "name": "server",
        "image": "registry/server:1",
        "imageID": "sha256:1",
        "state": {"running": {}},
    }
    return {
        "metadata": {
            "name": f"{component}-1",
            "namespace": namespace,
            "labels": {"app.kubernetes.io/component": component},
        },
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [container],
            **status,
        },
    }


def build_node(name: str = "gpu-0", gpus: int = 4, **spec: Any) -> dict[str, Any]:
    taint = {"key": GPU, "value": "present", "effect": "NoSchedule"}
    return {
        "metadata": {"name": name, "labels": {"zone": "a"}},
        "spec": {"taints": [taint], **spec},
        "status": {"allocatable": {"cpu": "8", **({GPU: str(gpus)} if gpus else {})}},
    }


def build_cluster(**changes: Any) -> ClusterFacts:
    values: dict[str, Any] = {
        "now": NOW,
        "version": {"gitVersion": "v1.37.2", "minor": "37"},
        "crd": {"spec": {"versions": [{"name": "v1beta1", "served": True}, {"name": "v1alpha1", "served": True}]}},
        "operators": [build_pod("operator", "easel-system")],
        "lease": {
            "spec": {
                "holderIdentity": "operator-1",
                "renewTime": "2026-11-27T09:59:58.000000Z",
                "leaseDurationSeconds": 10,
            }
        },
        "api_service": {
            "spec": {"service": {"namespace": "easel-system", "name": "easel-operator"}},
            "status": {"conditions": [{"type": "Available", "status": "True"}]},
        },
        "is_zero_supported": True,
        "nodes": [build_node()],
        "storage_classes": [
            {"metadata": {"name": "fast", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}}
        ],
        "runtime_classes": [],
    }
    return ClusterFacts(**{**values, **changes})


def build_facts(spec: dict[str, Any] | None = None, **changes: Any) -> ServiceFacts:
    source = {"huggingFace": {"repository": "some/model"}}
    values: dict[str, Any] = {
        "service": {
            "metadata": {"namespace": "art", "name": "sdxl"},
            "spec": {"model": {"source": source}, "scaling": {"maxReplicas": 4}, **(spec or {})},
            "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "Available", "message": "."}]},
        },
        "worker_template": None,
        "pods": [build_pod("gateway"), build_pod("worker")],
        "quotas": [],
        "claims": {},
        "readiness": {"ready": True, "reason": "Available", "message": "takes work"},
        "hub": "HTTP 200",
    }
    return ServiceFacts(**{**values, **changes})
