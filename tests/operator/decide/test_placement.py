"""Each cause why the cluster takes no pod has its own reason and advice, from messages as Kubernetes writes them."""

from dataclasses import replace

import pytest
from easel_contract import names
from easel_operator.decide.reconcile import decide
from easel_operator.objects import Json, ObjectKey

from tests.operator.decide.test_conditions import GATEWAY, WORKER, build_running, find
from tests.operator.objects import build_pod, build_service, build_unschedulable_pod

ON_A_VOLUME = {"model": {"source": {"persistentVolumeClaim": {"claimName": "weights"}}}, "scaling": {"maxReplicas": 8}}
SERVICE = build_service(ON_A_VOLUME)
PREEMPTION = " preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."


def unschedulable(message: str, component: str = names.COMPONENT_WORKER) -> Json:
    """A pod of which the scheduler says this."""
    pod = build_unschedulable_pod("stuck")
    if component == names.COMPONENT_GATEWAY:
        pod = {**pod, "metadata": build_pod(component, "stuck")["metadata"]}
    pod["status"]["conditions"][0]["message"] = message
    return pod


# the scheduler's message → (reason, what is advised, what must not be advised)
SCHEDULER: dict[str, tuple[str, str, str]] = {
    '0/3 nodes are available: persistentvolumeclaim "weights" not found.': (
        "VolumeUnavailable",
        "Create PersistentVolumeClaim weights",
        "Add nodes",
    ),
    'persistentvolumeclaim "weights" is being deleted': ("VolumeUnavailable", "Create PersistentVolumeClaim", "nodes"),
    'persistentvolumeclaim "weights" bound to non-existent persistentvolume "pv-1"': (
        "VolumeUnavailable",
        "is gone",
        "Add nodes",
    ),
    "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims.": (
        "VolumeUnavailable",
        "kubectl describe pvc weights",
        "Add nodes",
    ),
    "0/3 nodes are available: 3 node(s) didn't find available persistent volumes to bind.": (
        "VolumeUnavailable",
        "kubectl describe pvc weights",
        "Add nodes",
    ),
    "0/3 nodes are available: 3 node(s) had volume node affinity conflict.": (
        "VolumeUnavailable",
        "in its zone",
        "nvidia.com/gpu",
    ),
    "0/3 nodes are available: 3 node(s) exceed max volume count.": ("VolumeUnavailable", "as many volumes", "gpu free"),
    "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.": (
        "InsufficientCapacity",
        "Add nodes with 1 nvidia.com/gpu free, or lower spec.scaling.maxReplicas",
        "memory",
    ),
    "0/3 nodes are available: 3 Insufficient memory.": (
        "InsufficientCapacity",
        "lower memory in spec.worker.resources.requests",
        "nvidia.com/gpu",
    ),
    "0/3 nodes are available: 3 Insufficient cpu.": ("InsufficientCapacity", "Add nodes with more cpu", "gpu"),
    "0/3 nodes are available: 3 Too many pods.": ("InsufficientCapacity", "as many pods as they may", "gpu"),
    "0/3 nodes are available: 3 node(s) had untolerated taint {dedicated: training}.": (
        "NoMatchingNode",
        "toleration of the taint {dedicated: training} to spec.worker.tolerations",
        "gpu",
    ),
    "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.": (
        "NoMatchingNode",
        "spec.worker.nodeSelector",
        "gpu",
    ),
    "0/3 nodes are available: 3 node(s) were unschedulable.": ("NoMatchingNode", "kubectl uncordon", "gpu"),
    "no nodes available to schedule pods": ("NoMatchingNode", "has no node", "gpu"),
    "0/3 nodes are available: a plugin of this cluster says no.": ("InsufficientCapacity", "a plugin of this", "gpu"),
}


@pytest.mark.parametrize("message", SCHEDULER)
def test_the_schedulers_causes_are_advised_on_one_by_one(message: str) -> None:
    reason, advice, other = SCHEDULER[message]
    capacity = find(decide(build_running(SERVICE, GATEWAY, unschedulable(message + PREEMPTION))), "CapacityAvailable")
    assert (capacity["status"], capacity["reason"]) == ("False", reason)
    quoted, _, advised = capacity["message"].partition("is not helpful for scheduling.")
    assert message.rstrip(".") in quoted
    assert advice in advised or (reason, advice) == ("InsufficientCapacity", "a plugin of this")
    assert other not in advised
    ready = find(decide(build_running(SERVICE, GATEWAY, unschedulable(message))), "Ready")
    assert ready["status"] == "False"
    assert advice in ready["message"], "who looks at Ready alone is advised too"


def test_where_nodes_differ_every_cause_is_advised_on() -> None:
    message = (
        "0/5 nodes are available: 2 Insufficient nvidia.com/gpu, 3 node(s) had untolerated taint {node: reserved}."
    )
    capacity = find(decide(build_running(SERVICE, unschedulable(message))), "CapacityAvailable")
    assert capacity["reason"] == "InsufficientCapacity", "the nodes that fit are full"
    assert "1 nvidia.com/gpu free" in capacity["message"]
    assert "{node: reserved}" in capacity["message"]


# the API server's message → (reason, what is advised, what must not be advised)
ADMISSION: dict[str, tuple[str, str, str]] = {
    'pods "painter-worker-7d4b9-" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: '
    "requests.nvidia.com/gpu=4, limited: requests.nvidia.com/gpu=4": (
        "QuotaExceeded",
        "Raise ResourceQuota gpus of the namespace, or lower spec.scaling.maxReplicas",
        "resources",
    ),
    'pods "painter-worker-7d4b9-" is forbidden: failed quota: compute: must specify limits.cpu for: server; '
    "limits.memory for: server": (
        "ResourcesMissing",
        "ResourceQuota compute asks for limits.cpu, limits.memory: set them in spec.worker.resources",
        "Raise",
    ),
    'pods "painter-worker-7d4b9-" is forbidden: maximum memory usage per Container is 2Gi, but limit is 8Gi': (
        "LimitRangeViolated",
        "spec.worker.resources",
        "Raise",
    ),
    'pods "painter-worker-7d4b9-" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != '
    'false (container "sidecar" must set securityContext.allowPrivilegeEscalation=false)': (
        "PodSecurityViolated",
        "pod-security.kubernetes.io/enforce",
        "Raise",
    ),
    'admission webhook "images.example.com" denied the request: images must come from our registry': (
        "AdmissionDenied",
        "admission webhook images.example.com refuses them",
        "Raise",
    ),
    "pods is forbidden: ValidatingAdmissionPolicy 'owners' with binding 'all' denied request: no owner": (
        "AdmissionDenied",
        "ValidatingAdmissionPolicy owners refuses them",
        "Raise",
    ),
    'Internal error occurred: failed calling webhook "mesh.example.com": context deadline exceeded': (
        "AdmissionDenied",
        "Webhook mesh.example.com doesn't answer",
        "Raise",
    ),
    'error looking up service account studio/painter: serviceaccount "painter" not found': (
        "PodsRefused",
        "makes it anew",
        "Raise",
    ),
    "pods are forbidden for a reason that nobody has seen yet": ("PodsRefused", "nobody has seen yet", "Raise"),
}


@pytest.mark.parametrize("component", [names.COMPONENT_WORKER, names.COMPONENT_GATEWAY])
@pytest.mark.parametrize("message", ADMISSION)
def test_the_api_servers_refusals_are_advised_on_one_by_one(message: str, component: str) -> None:
    reason, advice, other = ADMISSION[message]
    snapshot = build_running(SERVICE, *((WORKER,) if component == names.COMPONENT_GATEWAY else (GATEWAY,)))
    key = ObjectKey("Deployment", "studio", f"painter-{component}")
    refused = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}
    live = snapshot.children[key]
    changed = {**live, "status": {**live["status"], "conditions": [refused]}}
    plan = decide(replace(snapshot, children={**snapshot.children, key: changed}))
    capacity, ready = find(plan, "CapacityAvailable"), find(plan, "Ready")
    assert (capacity["status"], capacity["reason"]) == ("False", reason)
    if component == names.COMPONENT_WORKER:
        assert advice in capacity["message"]
    assert other not in capacity["message"].replace(message, "")
    assert ready["status"] == "False"
    assert message in ready["message"]
    assert reason in [event.reason for event in plan.events]


def test_gateways_without_a_node_are_reported_too() -> None:
    stuck = unschedulable("0/3 nodes are available: 3 Insufficient memory.", names.COMPONENT_GATEWAY)
    capacity = find(decide(build_running(SERVICE, WORKER, stuck)), "CapacityAvailable")
    assert (capacity["status"], capacity["reason"]) == ("False", "InsufficientCapacity")
    assert "1 of 1 gateway pods have no node" in capacity["message"]
    assert "spec.gateway.resources.requests" in capacity["message"]
