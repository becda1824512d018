"""Asks the cluster for all that checks are made of. Nothing is changed; what may not be read is ``Unknown``."""

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final, TypeVar

from easel_contract import names

from easel_cli.cluster import paths
from easel_cli.cluster.access import Cluster
from easel_cli.cluster.errors import RefusedError
from easel_cli.cluster.gateways import list_pods
from easel_cli.cluster.pods import execute, proxy
from easel_cli.doctor.cluster_checks import METRICS_API
from easel_cli.doctor.facts import ClusterFacts, Json, ServiceFacts, Unknown
from easel_cli.doctor.service_checks import UNREACHED
from easel_cli.errors import CliError

T = TypeVar("T")
LEASE: Final = "easel-operator"
PROBE: Final = "easel-probe"
EXEC_SECONDS: Final = 20.0
OPERATOR_PODS: Final = f"{names.LABEL_NAME}={names.APP_NAME},{names.LABEL_COMPONENT}={names.COMPONENT_OPERATOR}"
# Run in a worker, with its proxy, its mirror and its authorities: an answer of any kind is an answer.
ASK_THE_HUB: Final = f"""
import urllib.error, urllib.request
from huggingface_hub import constants
try:
    print("HTTP", urllib.request.urlopen(constants.ENDPOINT, timeout=10).status)
except urllib.error.HTTPError as error:
    print("HTTP", error.code)
except OSError as error:
    print("{UNREACHED}:", constants.ENDPOINT, getattr(error, "reason", error))
"""


def gather_cluster(cluster: Cluster) -> ClusterFacts:
    """Raises UnreachableError where there is no API server."""
    crd = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{names.PLURAL}.{names.API_GROUP}"
    operators = _ask(
        lambda: cluster.list_all("/api/v1/pods", "list pods of all namespaces", labelSelector=OPERATOR_PODS)
    )
    return ClusterFacts(
        now=datetime.now(UTC),
        version=_ask(lambda: cluster.get("/version", "read the version")),
        crd=_ask(lambda: cluster.find(crd, "read CustomResourceDefinitions")),
        operators=operators,
        lease=_find_lease(cluster, operators),
        api_service=_ask(
            lambda: cluster.find(f"/apis/apiregistration.k8s.io/v1/apiservices/{METRICS_API}", "read APIServices")
        ),
        is_zero_supported=_try_scale_to_zero(cluster),
        nodes=_ask(lambda: cluster.list_all(paths.NODES, "list nodes")),
        storage_classes=_list(cluster, "storage.k8s.io/v1", "storageclasses"),
        runtime_classes=_list(cluster, "node.k8s.io/v1", "runtimeclasses"),
    )


def gather_service(cluster: Cluster, service: Json) -> ServiceFacts:
    """Of a service as it was read. Raises UnreachableError."""
    name = service["metadata"]["name"]
    pods = _ask(lambda: list_pods(cluster, name))
    deployment = _ask(
        lambda: cluster.find(
            paths.grouped("apps/v1", cluster.namespace, "deployments", names.worker_name(name)), "read Deployments"
        )
    )
    template = None if isinstance(deployment, Unknown) or deployment is None else deployment["spec"]["template"]["spec"]
    quotas = paths.core(cluster.namespace, "resourcequotas")
    return ServiceFacts(
        service=service,
        worker_template=template,
        pods=pods,
        quotas=_ask(lambda: cluster.list_all(quotas, "list resourcequotas")),
        claims={claim: _find_claim(cluster, claim) for claim in sorted(set(_find_claim_names(service["spec"])))},
        readiness=_ask_gateway(cluster, pods),
        hub=_ask_hub(cluster, service, pods),
    )


def _ask(question: Callable[[], T]) -> T | Unknown:
    try:
        return question()
    except RefusedError as error:
        return Unknown(f"you may not {error.asked}" if error.is_forbidden else str(error))


def _list(cluster: Cluster, group: str, kind: str) -> list[dict[str, Any]] | Unknown:
    return _ask(lambda: cluster.list_all(paths.grouped(group, None, kind), f"list {kind}"))


def _find_lease(cluster: Cluster, operators: list[dict[str, Any]] | Unknown) -> Json | Unknown | None:
    if isinstance(operators, Unknown):
        return operators
    if not operators:
        return None
    namespace = operators[0]["metadata"]["namespace"]
    path = paths.grouped("coordination.k8s.io/v1", namespace, "leases", LEASE)
    return _ask(lambda: cluster.find(path, f"read the Lease in {namespace}"))


def _try_scale_to_zero(cluster: Cluster) -> bool | Unknown:
    """By a dry run, as the operator does it: the gate isn't to be read anywhere without further rights."""
    manifest = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": PROBE},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": PROBE},
            "minReplicas": 0,
            "maxReplicas": 1,
            "metrics": [
                {
                    "type": "External",
                    "external": {"metric": {"name": PROBE}, "target": {"type": "AverageValue", "averageValue": "1"}},
                }
            ],
        },
    }
    path = paths.grouped("autoscaling/v2", cluster.namespace, "horizontalpodautoscalers")
    try:
        cluster.create(path, manifest, "try an autoscaler (a dry run)", is_dry=True)
    except RefusedError as error:
        if error.http_status == HTTPStatus.UNPROCESSABLE_ENTITY:
            return False
        return Unknown(f"you may not {error.asked}" if error.is_forbidden else str(error))
    return True


def _find_claim(cluster: Cluster, name: str) -> Json | Unknown | None:
    path = paths.core(cluster.namespace, "persistentvolumeclaims", name)
    return _ask(lambda: cluster.find(path, "read PersistentVolumeClaims"))


def _find_claim_names(value: object) -> Iterator[str]:
    """Of all parts of a spec."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key in ("claimName", "cacheClaimName") and isinstance(inner, str):
                yield inner
            else:
                yield from _find_claim_names(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _find_claim_names(inner)


def _ask_gateway(cluster: Cluster, pods: list[dict[str, Any]] | Unknown) -> Json | Unknown | None:
    """What a running gateway says at /readyz, by the API server's proxy; it asks Redis to answer."""
    if isinstance(pods, Unknown):
        return pods
    pod = next((each for each in pods if _is_running(each, names.COMPONENT_GATEWAY)), None)
    if pod is None:
        return None
    try:
        said = proxy(cluster, pod, names.METRICS_PORT, names.PATH_READY, f"ask pod {pod['metadata']['name']}")
    except RefusedError as error:
        if error.is_forbidden:
            return Unknown(f"you may not {error.asked} by the API server's proxy (pods/proxy)")
        said = error.body
    try:
        answer = json.loads(said)
    except ValueError:
        answer = None
    if isinstance(answer, dict) and "ready" in answer:
        return answer
    return Unknown(f"pod {pod['metadata']['name']} can't be asked by the API server's proxy: {said[:200]!r}")


def _ask_hub(cluster: Cluster, service: Json, pods: list[dict[str, Any]] | Unknown) -> str | Unknown | None:
    """By a command in a worker: nobody else has its network, its proxy and its mirror."""
    spec = service["spec"]
    if "huggingFace" not in json.dumps(spec) or (spec.get("downloads") or {}).get("offline"):
        return None
    if isinstance(pods, Unknown):
        return pods
    pod = next((each for each in pods if _is_running(each, names.COMPONENT_WORKER)), None)
    if pod is None:
        return Unknown("no worker runs, and only there is the workers' network to be tried")
    command = ["python", "-c", ASK_THE_HUB]
    try:
        said = execute(cluster, pod, names.CONTAINER_NAME, command, EXEC_SECONDS).strip()
    except CliError as error:
        return Unknown(str(error))
    last = said.splitlines()[-1] if said else ""
    if last.startswith(("HTTP", UNREACHED)):
        return last
    return Unknown(f"a command in pod {pod['metadata']['name']} said nothing of use: {last or 'no word'}")


def _is_running(pod: Json, component: str) -> bool:
    statuses = pod.get("status", {}).get("containerStatuses") or ()
    is_up = any(each["name"] == names.CONTAINER_NAME and "running" in (each.get("state") or {}) for each in statuses)
    return is_up and pod["metadata"]["labels"].get(names.LABEL_COMPONENT) == component
