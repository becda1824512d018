"""Finds out what this cluster can do, by asking its API server; nothing is changed."""

import logging
from http import HTTPStatus
from typing import Final

from easel_operator.cluster.client import ApiRefusedError, KubernetesClient
from easel_operator.decide.snapshot import Capabilities
from easel_operator.objects import API_SERVICES, HPAS, Json

logger = logging.getLogger(__name__)

METRICS_API_SERVICE: Final = "v1beta1.external.metrics.k8s.io"
PROBE_NAME: Final = "easel-probe"


async def probe_capabilities(client: KubernetesClient, *, namespace: str, metrics_service: str) -> Capabilities:
    """Probe with reads and dry runs.

    Args:
        client: the API server.
        namespace: the operator's own.
        metrics_service: name of the Service in front of the operator's external metrics API.

    Raises:
        KubernetesError: the API server doesn't answer.
    """
    api_service = await client.get(API_SERVICES, None, METRICS_API_SERVICE)
    note = explain_foreign_api(api_service, namespace=namespace, service=metrics_service)
    kept = await _try_hpa(client, namespace, min_replicas=1)
    zero = await _try_hpa(client, namespace, min_replicas=0)
    behavior = (kept or {}).get("spec", {}).get("behavior", {})
    return Capabilities(
        is_metrics_api_ours=note == "",
        metrics_api_note=note,
        is_scale_to_zero_supported=zero is not None,
        is_tolerance_supported="tolerance" in behavior.get("scaleUp", {}),
    )


def explain_foreign_api(api_service: Json | None, *, namespace: str, service: str) -> str:
    """Why the external metrics API isn't served by us; empty if it is."""
    if api_service is None:
        return f"APIService {METRICS_API_SERVICE} doesn't exist, so an autoscaler could read no metric"
    target = api_service.get("spec", {}).get("service") or {}
    if (target.get("namespace"), target.get("name")) == (namespace, service):
        return ""
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
