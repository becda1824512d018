"""What the operator may do, by the API server's own word. Asking needs no right of its own."""

from easel_operator.cluster.client import KubernetesClient
from easel_operator.objects import SELF_ACCESS_REVIEWS, Resource


async def may(client: KubernetesClient, verb: str, resource: Resource, namespace: str) -> bool:
    """Whether the operator may do this with every object of a kind in a namespace. Raises KubernetesError."""
    group = resource.api_version.rpartition("/")[0]
    asked = {"verb": verb, "group": group, "resource": resource.plural, "namespace": namespace}
    body = {
        "apiVersion": SELF_ACCESS_REVIEWS.api_version,
        "kind": SELF_ACCESS_REVIEWS.kind,
        "spec": {"resourceAttributes": asked},
    }
    answer = await client.request("POST", SELF_ACCESS_REVIEWS.path(None), body=body)
    return bool(answer.get("status", {}).get("allowed"))
