"""What every service needs of its cluster."""

import re
from datetime import datetime
from typing import Final

from easel_contract import names

from easel_cli.doctor.facts import CheckResult, ClusterFacts, Json, Level, Unknown, unknown

OLDEST_MINOR: Final = 33
METRICS_API: Final = "v1beta1.external.metrics.k8s.io"
INSTALL: Final = "helm install easel helm/easel --namespace easel-system --create-namespace"
LATE_RENEWALS: Final = 3  # lease durations without a renewal, after which nobody leads


def check_cluster(facts: ClusterFacts) -> list[CheckResult]:
    """All of them, in the order in which they build on each other."""
    return [
        check_version(facts.version),
        check_crd(facts.crd),
        check_operator(facts),
        check_metrics_api(facts),
        check_scale_to_zero(facts.is_zero_supported),
    ]


def check_version(version: Json | Unknown) -> CheckResult:
    """Kubernetes' own."""
    if isinstance(version, Unknown):
        return unknown("Kubernetes", version)
    text = str(version.get("gitVersion", ""))
    minor = read_minor(version)
    if minor is not None and minor < OLDEST_MINOR:
        return CheckResult(
            "Kubernetes", Level.FAILED, f"{text} is older than 1.{OLDEST_MINOR}", "upgrade the cluster first"
        )
    return CheckResult("Kubernetes", Level.OK, text)


def read_minor(version: Json | Unknown) -> int | None:
    """37 of v1.37.2; some clouds write 37+."""
    if isinstance(version, Unknown):
        return None
    found = re.match(r"\d+", str(version.get("minor", "")))
    return int(found[0]) if found else None


def check_crd(crd: Json | Unknown | None) -> CheckResult:
    """Whether the API server knows services, by all names that this release writes."""
    check = "Resource"
    if isinstance(crd, Unknown):
        return unknown(check, crd)
    if crd is None:
        return CheckResult(check, Level.FAILED, f"the cluster knows no {names.KIND}", INSTALL)
    served = {each["name"] for each in crd["spec"]["versions"] if each.get("served")}
    missing = [version for version in names.SERVED_API_VERSIONS if version not in served]
    if missing:
        return CheckResult(
            check,
            Level.WARNING,
            f"{names.KIND} is served as {', '.join(sorted(served))}, and not as {', '.join(missing)}",
            "apply crds/ of this release: helm leaves a CRD as it is unless the chart is told otherwise",
        )
    return CheckResult(check, Level.OK, f"{names.KIND} is served as {', '.join(sorted(served))}")


def check_operator(facts: ClusterFacts) -> CheckResult:
    """Whether one is there, ready, and leads."""
    check = "Operator"
    if isinstance(facts.operators, Unknown):
        return unknown(check, facts.operators)
    if not facts.operators:
        return CheckResult(check, Level.FAILED, "no operator runs: nothing follows the spec, nobody scales", INSTALL)
    namespace = facts.operators[0]["metadata"]["namespace"]
    ready = [pod for pod in facts.operators if _is_ready(pod)]
    where = f"{len(ready)} of {len(facts.operators)} operator pods in {namespace} are ready"
    logs = f"kubectl logs -n {namespace} -l {names.LABEL_COMPONENT}={names.COMPONENT_OPERATOR}"
    if not ready:
        return CheckResult(check, Level.FAILED, where, logs)
    if isinstance(facts.lease, Unknown):
        return CheckResult(check, Level.UNKNOWN, f"{where}; who leads isn't known: {facts.lease.reason}")
    leader = _find_leader(facts.lease, facts.now)
    if leader is None:
        return CheckResult(check, Level.FAILED, f"{where}, and none leads: nobody renews the Lease", logs)
    level = Level.OK if len(ready) == len(facts.operators) else Level.WARNING
    return CheckResult(check, level, f"{where}, {leader} leads", "" if level is Level.OK else logs)


def _find_leader(lease: Json | None, now: datetime) -> str | None:
    spec: Json = (lease or {}).get("spec") or {}
    if not spec.get("holderIdentity") or not spec.get("renewTime"):
        return None
    age = (now - datetime.fromisoformat(spec["renewTime"])).total_seconds()
    bound = LATE_RENEWALS * int(spec.get("leaseDurationSeconds") or 10)
    return str(spec["holderIdentity"]) if age < bound else None


def check_metrics_api(facts: ClusterFacts) -> CheckResult:
    """The cluster's one slot for external metrics: whose it is, and whether it answers."""
    check = "External metrics API"
    registered = facts.api_service
    if isinstance(registered, Unknown):
        return unknown(check, registered)
    if registered is None:
        return CheckResult(
            check,
            Level.WARNING,
            f"{METRICS_API} isn't registered; the operator scales workers itself",
            "look at externalMetrics.mode of the chart, and at the operator's log",
        )
    target = registered["spec"].get("service") or {}
    owner = f"{target.get('namespace')}/{target.get('name')}"
    conditions = registered.get("status", {}).get("conditions") or ()
    down = next((each for each in conditions if each["type"] == "Available" and each["status"] != "True"), None)
    if down is not None:
        return CheckResult(
            check,
            Level.FAILED,
            f"{METRICS_API} leads to {owner}, which doesn't answer: {down.get('message', '')}",
            f"kubectl describe apiservice {METRICS_API}",
        )
    if isinstance(facts.operators, Unknown):
        return CheckResult(check, Level.OK, f"{METRICS_API} leads to {owner} and answers")
    namespaces = {pod["metadata"]["namespace"] for pod in facts.operators}
    if target.get("namespace") not in namespaces:
        return CheckResult(
            check,
            Level.WARNING,
            f"{METRICS_API} belongs to {owner}, another adapter; the operator leaves it alone and scales workers "
            "itself",
            "nothing, if that is as you want it; a cluster has one external metrics API",
        )
    return CheckResult(check, Level.OK, f"{METRICS_API} leads to {owner} and answers")


def check_scale_to_zero(is_supported: bool | Unknown) -> CheckResult:  # noqa: FBT001 - a fact
    """Feature gate HPAScaleToZero, as a dry run of an autoscaler shows it."""
    check = "Scale to zero"
    if isinstance(is_supported, Unknown):
        return unknown(check, is_supported)
    if not is_supported:
        return CheckResult(
            check,
            Level.WARNING,
            "the API server refuses an autoscaler with minReplicas 0 (feature gate HPAScaleToZero); services with "
            "scaling.minReplicas 0 are scaled by the operator itself",
            "nothing, unless you want the cluster's own autoscaler to do it: switch the gate on",
        )
    return CheckResult(check, Level.OK, "the API server takes autoscalers with minReplicas 0")


def _is_ready(pod: Json) -> bool:
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
