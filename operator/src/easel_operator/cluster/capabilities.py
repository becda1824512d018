"""Finds out what this cluster can do, by asking its API server; nothing is changed."""

import logging
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from easel_operator.cluster.client import ApiRefusedError, KubernetesClient
from easel_operator.decide.snapshot import Capabilities
from easel_operator.objects import API_SERVICES, DEPLOYMENTS, HPAS, OPTIONAL_RESOURCES, Json, Resource

logger = logging.getLogger(__name__)

METRICS_API_SERVICE: Final = "v1beta1.external.metrics.k8s.io"
PROBE_NAME: Final = "easel-probe"


@dataclass(frozen=True)
class Installation:
    """Who registers: the Service in front of the operator, and what the registration goes with."""

    namespace: str
    service: str
    is_api_wanted: bool  # externalMetrics.mode of the chart; where not, a registration of ours is given back
    certificate_secret: str = ""  # where another makes the certificate that is served; empty: the operator does
    cluster_role: str = ""  # whose end takes the APIService along; empty: nothing does
    watched_namespace: str = ""  # one where it may make Deployments; empty: it may in its own


async def probe_capabilities(client: KubernetesClient, installation: Installation) -> Capabilities:
    """Probe with reads and dry runs. Raises KubernetesError where the API server doesn't answer."""
    namespace = installation.namespace
    api_service = await client.get(API_SERVICES, None, METRICS_API_SERVICE)
    note = explain_foreign_api(api_service, installation)
    kept = await _try_hpa(client, namespace, min_replicas=1)
    zero = await _try_hpa(client, namespace, min_replicas=0)
    behavior = (kept or {}).get("spec", {}).get("behavior", {})
    return Capabilities(
        is_metrics_api_ours=note == "",
        metrics_api_note=note,
        is_scale_to_zero_supported=zero is not None,
        is_tolerance_supported="tolerance" in behavior.get("scaleUp", {}),
        is_image_volume_supported=await _takes_image_volumes(client, installation.watched_namespace or namespace),
        unserved_kinds=frozenset([each.kind for each in OPTIONAL_RESOURCES if not await is_served(client, each)]),
    )


async def is_served(client: KubernetesClient, resource: Resource) -> bool:
    """Whether the cluster has a kind, by the API server's own list of its group. Raises KubernetesError."""
    try:
        found = await client.request("GET", f"/apis/{resource.api_version}")
    except ApiRefusedError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return False
        raise
    return any(each.get("name") == resource.plural for each in found.get("resources") or ())


def is_served_by(api_service: Json, installation: Installation) -> bool:
    """Whether an APIService leads to the installation's own Service."""
    target = api_service.get("spec", {}).get("service") or {}
    return (target.get("namespace"), target.get("name")) == (installation.namespace, installation.service)


def explain_foreign_api(api_service: Json | None, installation: Installation) -> str:
    """Why the external metrics API isn't served by us; empty if it is."""
    if not installation.is_api_wanted:
        return f"externalMetrics.mode is Disabled, so {METRICS_API_SERVICE} is left to other adapters"
    if api_service is None:
        return f"APIService {METRICS_API_SERVICE} isn't registered yet, so an autoscaler could read no metric"
    if is_served_by(api_service, installation):
        return ""
    target = api_service.get("spec", {}).get("service") or {}
    return (
        f"{METRICS_API_SERVICE} is served by {target.get('namespace')}/{target.get('name')}, and a cluster has only "
        "one external metrics API; it is left alone"
    )


async def _try_hpa(client: KubernetesClient, namespace: str, *, min_replicas: int) -> Json | None:
    """An autoscaler as the API server would store it, or None if it refuses it. A dry run: nothing is stored."""
    rules = {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 15}], "tolerance": "0"}
    body = {
        "apiVersion": HPAS.api_version,
        "kind": HPAS.kind,
        "metadata": {"namespace": namespace, "name": PROBE_NAME},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": PROBE_NAME},
            "minReplicas": min_replicas,
            "maxReplicas": 1,
            "metrics": [
                {
                    "type": "External",
                    "external": {
                        "metric": {"name": PROBE_NAME},
                        "target": {"type": "AverageValue", "averageValue": "1"},
                    },
                }
            ],
            "behavior": {"scaleUp": rules},
        },
    }
    try:
        return await client.request("POST", HPAS.path(namespace), query={"dryRun": "All"}, body=body)
    except ApiRefusedError as error:
        if error.status != HTTPStatus.UNPROCESSABLE_ENTITY:
            raise
        logger.info("This API server refuses an autoscaler with minReplicas %d: %s", min_replicas, error.message)
        return None


async def _takes_image_volumes(client: KubernetesClient, namespace: str) -> bool:
    """Whether a pod's volume may be an image: without the feature the API server drops the volume without a word. What
    refuses the probe, such as a policy, says nothing about it. A dry run."""
    labels = {"app": PROBE_NAME}
    container = {"name": PROBE_NAME, "image": PROBE_NAME}
    volume = {"name": PROBE_NAME, "image": {"reference": PROBE_NAME}}
    body = {
        "apiVersion": DEPLOYMENTS.api_version,
        "kind": DEPLOYMENTS.kind,
        "metadata": {"namespace": namespace, "name": PROBE_NAME},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container], "volumes": [volume]}},
        },
    }
    try:
        kept = await client.request("POST", DEPLOYMENTS.path(namespace), query={"dryRun": "All"}, body=body)
    except ApiRefusedError as error:
        logger.info("Whether this API server keeps images as volumes can't be asked: %s", error.message)
        return True
    volumes = kept.get("spec", {}).get("template", {}).get("spec", {}).get("volumes") or ()
    return any("image" in each for each in volumes)
