"""A thousand services as the operator's watches would have delivered them: a gateway pod and two worker pods each."""

from datetime import datetime

from easel_contract import names
from easel_operator.cluster.object_store import ObjectStore
from easel_operator.handlers.service_store import ServiceStore
from easel_operator.objects import Json

from benchmarks.scale.pod_server import address_of

NAMESPACE = "studio"
WORKERS = 2


def fill(services: ServiceStore, children: ObjectStore, count: int, now: datetime) -> None:
    """Put the services and their children; gateways have the first ``count`` addresses, workers the rest."""
    for index in range(count):
        name = f"painter-{index:04}"
        services.put(_service(name))
        children.put(_deployment(name))
        children.put(_autoscaler(name))
        children.put(_pod(name, names.COMPONENT_GATEWAY, 0, address_of(index), now))
        for worker in range(WORKERS):
            address = address_of(count + index * WORKERS + worker)
            children.put(_pod(name, names.COMPONENT_WORKER, worker, address, now))


def _service(name: str) -> Json:
    return {
        "apiVersion": f"{names.API_GROUP}/{names.API_VERSION}",
        "kind": names.KIND,
        "metadata": {"namespace": NAMESPACE, "name": name, "uid": name, "generation": 1, "resourceVersion": "1"},
        "spec": {
            "model": {"source": {"huggingFace": {"repository": "stabilityai/sdxl-turbo"}}},
            # Two at least, as no autoscaler acts here: pods beyond need would be marked for removal at every tick.
            "scaling": {"minReplicas": WORKERS, "maxReplicas": 8},
        },
    }


def _metadata(service: str, name: str, component: str, now: datetime | None = None) -> Json:
    labels = {names.LABEL_SERVICE: service, names.LABEL_COMPONENT: component}
    metadata = {"namespace": NAMESPACE, "name": name, "uid": name, "resourceVersion": "1", "labels": labels}
    return metadata if now is None else {**metadata, "creationTimestamp": now.isoformat()}


def _deployment(service: str) -> Json:
    metadata = _metadata(service, names.worker_name(service), names.COMPONENT_WORKER)
    metadata["ownerReferences"] = [{"kind": names.KIND, "name": service, "uid": service, "controller": True}]
    counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), WORKERS)
    return {"kind": "Deployment", "metadata": metadata, "spec": {"replicas": WORKERS}, "status": counts}


def _autoscaler(service: str) -> Json:
    metadata = _metadata(service, names.worker_name(service), names.COMPONENT_WORKER)
    condition = {"type": "ScalingActive", "status": "True", "reason": "ValidMetricFound"}
    return {"kind": "HorizontalPodAutoscaler", "metadata": metadata, "status": {"conditions": [condition]}}


def _pod(service: str, component: str, number: int, address: str, now: datetime) -> Json:
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": now.isoformat()}
    server = {"name": names.CONTAINER_NAME, "ready": True, "restartCount": 0, "state": {"running": {}}}
    metadata = _metadata(service, f"{service}-{component}-{number}", component, now)
    metadata["labels"][names.LABEL_TEMPLATE_HASH] = "7d4b9"
    metadata["ownerReferences"] = [{"kind": "ReplicaSet", "name": f"{service}-{component}-7d4b9"}]
    return {
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"nodeName": "node-a"},
        "status": {
            "phase": "Running",
            "podIP": address,
            "conditions": [{"type": "PodScheduled", "status": "True"}, ready],
            "containerStatuses": [server],
        },
    }
