"""Where a service's workers may run: GPUs, taints, runtime classes, storage and quotas."""

from collections.abc import Sequence
from typing import Final

from easel_cli.doctor.facts import CheckResult, ClusterFacts, Json, Level, ServiceFacts, Unknown, unknown

KEEPING_AWAY: Final = ("NoSchedule", "NoExecute")
DEFAULT_CLASS: Final = "storageclass.kubernetes.io/is-default-class"
NVIDIA: Final = "nvidia"
MAX_NAMED: Final = 5


def check_gpu_nodes(cluster: ClusterFacts, facts: ServiceFacts) -> CheckResult:
    """Whether some node has the GPUs, and lets the workers in."""
    check = "GPU nodes"
    if facts.gpu_count == 0:
        return CheckResult(check, Level.OK, "its workers run on CPU (worker.gpu.count is 0)", service=facts.label)
    if isinstance(cluster.nodes, Unknown):
        return unknown(check, cluster.nodes, facts.label)
    resource = facts.gpu_resource
    having = [node for node in cluster.nodes if _count(node, resource) >= facts.gpu_count]
    if not having:
        return CheckResult(
            check,
            Level.FAILED,
            f"none of {len(cluster.nodes)} nodes offers {facts.gpu_count} {resource}{_name_others(cluster.nodes)}",
            "install the GPU vendor's driver and device plugin on the nodes, or name the resource that they have in "
            "worker.gpu.resourceName",
            facts.label,
        )
    refusals = {node["metadata"]["name"]: _find_refusal(node, facts) for node in having}
    open_nodes = [name for name, refusal in refusals.items() if refusal is None]
    if not open_nodes:
        named = "; ".join(f"{name}: {refusal}" for name, refusal in list(refusals.items())[:MAX_NAMED])
        return CheckResult(
            check,
            Level.FAILED,
            f"{len(having)} nodes have {resource}, and none takes the workers: {named}",
            "add worker.tolerations or worker.nodeSelector that fit, or change the nodes",
            facts.label,
        )
    total = sum(_count(node, resource) for node in having if node["metadata"]["name"] in open_nodes)
    return _judge_room(check, facts, len(open_nodes), total)


def _judge_room(check: str, facts: ServiceFacts, nodes: int, total: int) -> CheckResult:
    needed = facts.max_workers * facts.gpu_count
    message = f"{nodes} nodes with {total} {facts.gpu_resource} take its workers, which need up to {needed}"
    if total < needed:
        step = "nothing, if a cluster autoscaler adds nodes; else lower scaling.maxReplicas or add GPUs"
        return CheckResult(check, Level.WARNING, message, step, facts.label)
    return CheckResult(check, Level.OK, message, service=facts.label)


def _count(node: Json, resource: str) -> int:
    try:
        return int((node.get("status", {}).get("allocatable") or {}).get(resource, 0))
    except ValueError:
        return 0


def _name_others(nodes: Sequence[Json]) -> str:
    """Extended resources that nodes have instead; a name with a domain is one."""
    found = {
        name
        for node in nodes
        for name in node.get("status", {}).get("allocatable") or ()
        if "/" in name and not name.startswith("kubernetes.io/")
    }
    return f"; they offer {', '.join(sorted(found)[:MAX_NAMED])}" if found else ""


def _find_refusal(node: Json, facts: ServiceFacts) -> str | None:
    """Why a node takes no worker."""
    spec: Json = node.get("spec") or {}
    if spec.get("unschedulable"):
        return "it is cordoned"
    labels: Json = node["metadata"].get("labels") or {}
    selector: Json = (facts.worker_template or {}).get("nodeSelector") or facts.worker.get("nodeSelector") or {}
    if missing := [f"{key}={value}" for key, value in selector.items() if labels.get(key) != value]:
        return f"it lacks the label {missing[0]}"
    tolerations = _list_tolerations(facts)
    for taint in spec.get("taints") or ():
        if taint.get("effect") in KEEPING_AWAY and not any(_tolerates(each, taint) for each in tolerations):
            value = f"={taint['value']}" if taint.get("value") else ""
            return f"its taint {taint['key']}{value}:{taint['effect']} isn't tolerated"
    return None


def _list_tolerations(facts: ServiceFacts) -> Sequence[Json]:
    """As the Deployment has them; before there is one, as the spec says, and the one for the GPUs' own taint."""
    if facts.worker_template is not None:
        found: Sequence[Json] = facts.worker_template.get("tolerations") or ()
        return found
    overlay: Json = (facts.worker.get("podTemplate") or {}).get("spec") or {}
    own = {"key": facts.gpu_resource, "operator": "Exists", "effect": "NoSchedule"}
    return [own, *(facts.worker.get("tolerations") or ()), *(overlay.get("tolerations") or ())]


def _tolerates(toleration: Json, taint: Json) -> bool:
    """As https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/ says."""
    if toleration.get("effect") not in (None, "", taint.get("effect")):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint.get("key"))
    return toleration.get("key") == taint.get("key") and toleration.get("value", "") == taint.get("value", "")


def check_runtime_class(cluster: ClusterFacts, facts: ServiceFacts) -> CheckResult | None:
    """Whether the workers' RuntimeClass is there; None where none is named and none would be expected."""
    check = "RuntimeClass"
    if isinstance(cluster.runtime_classes, Unknown):
        return unknown(check, cluster.runtime_classes, facts.label)
    there = {str(each["metadata"]["name"]) for each in cluster.runtime_classes}
    overlay: Json = (facts.worker.get("podTemplate") or {}).get("spec") or {}
    named = (facts.worker_template or {}).get("runtimeClassName") or overlay.get("runtimeClassName")
    if named is not None and named not in there:
        listed = ", ".join(sorted(there)) or "none"
        step = f"make RuntimeClass {named}, or name another in worker.podTemplate.spec.runtimeClassName"
        message = f"its workers name RuntimeClass {named}, which isn't there; there are: {listed}"
        return CheckResult(check, Level.FAILED, message, step, facts.label)
    if named is not None:
        return CheckResult(check, Level.OK, f"RuntimeClass {named} is there", service=facts.label)
    if NVIDIA in there and facts.gpu_count > 0 and facts.gpu_resource.startswith("nvidia.com/"):
        return CheckResult(
            check,
            Level.WARNING,
            f"there is a RuntimeClass {NVIDIA}, and its workers don't name it: they see a GPU only where that runtime "
            "is the nodes' default",
            f"set worker.podTemplate.spec.runtimeClassName to {NVIDIA} if workers say that there is no GPU",
            facts.label,
        )
    return None


def check_storage(cluster: ClusterFacts, facts: ServiceFacts) -> list[CheckResult]:
    """Claims that the service names, and the class of the one that is made for it."""
    check = "Storage"
    results = [_check_claim(check, name, claim, facts.label) for name, claim in facts.claims.items()]
    cache: Json = facts.service["spec"]["model"].get("cache") or {}
    if cache.get("size") is not None:
        results.append(_check_class(check, cluster.storage_classes, cache.get("storageClassName"), facts.label))
    return results


def _check_claim(check: str, name: str, claim: Json | Unknown | None, label: str) -> CheckResult:
    if isinstance(claim, Unknown):
        return unknown(check, claim, label)
    if claim is None:
        step = "make it; easel init --claim-size writes one"
        return CheckResult(check, Level.FAILED, f"PersistentVolumeClaim {name} doesn't exist", step, label)
    phase = claim.get("status", {}).get("phase")
    if phase == "Bound":
        return CheckResult(check, Level.OK, f"PersistentVolumeClaim {name} is bound", service=label)
    level = Level.FAILED if phase == "Lost" else Level.WARNING
    message = f"PersistentVolumeClaim {name} is {phase}; of some classes it is bound once a pod needs it"
    return CheckResult(check, level, message, f"kubectl describe pvc {name}", label)


def _check_class(check: str, classes: Sequence[Json] | Unknown, named: str | None, label: str) -> CheckResult:
    if isinstance(classes, Unknown):
        return unknown(check, classes, label)
    there = {str(each["metadata"]["name"]): each["metadata"].get("annotations") or {} for each in classes}
    if named is not None and named not in there:
        listed = ", ".join(sorted(there)) or "none"
        message = f"model.cache names StorageClass {named}, which isn't there; there are: {listed}"
        return CheckResult(check, Level.FAILED, message, "name another in model.cache.storageClassName", label)
    default = [name for name, annotations in there.items() if annotations.get(DEFAULT_CLASS) == "true"]
    if named is None and not default:
        message = "model.cache asks for a claim, and the cluster has no default StorageClass"
        return CheckResult(check, Level.FAILED, message, "name one in model.cache.storageClassName", label)
    return CheckResult(check, Level.OK, f"StorageClass {named or default[0]} is there for model.cache", service=label)


def check_quota(facts: ServiceFacts) -> list[CheckResult]:
    """Whether the namespace's quotas leave room for all workers."""
    check = "Quota"
    if isinstance(facts.quotas, Unknown):
        return [unknown(check, facts.quotas, facts.label)]
    running = 0 if isinstance(facts.pods, Unknown) else sum(_is_worker(pod) for pod in facts.pods)
    more = max(0, facts.max_workers - running)
    needs = {"pods": more, f"requests.{facts.gpu_resource}": more * facts.gpu_count}
    results = []
    for quota in facts.quotas:
        status: Json = quota.get("status") or {}
        hard, used = status.get("hard") or {}, status.get("used") or {}
        for resource, needed in needs.items():
            room = _whole(hard.get(resource)) - _whole(used.get(resource)) if resource in hard else needed
            if room < needed:
                message = (
                    f"ResourceQuota {quota['metadata']['name']} has room for {room} more of {resource}, and up to "
                    f"{needed} are wanted at {facts.max_workers} workers"
                )
                step = "raise the quota, or lower scaling.maxReplicas"
                results.append(CheckResult(check, Level.WARNING, message, step, facts.label))
    return results or [CheckResult(check, Level.OK, "no quota is in the way", service=facts.label)]


def _whole(quantity: object) -> int:
    try:
        return int(str(quantity))
    except ValueError:
        return 0


def _is_worker(pod: Json) -> bool:
    return bool((pod["metadata"].get("labels") or {}).get("app.kubernetes.io/component") == "worker")
