"""The NetworkPolicy that lets the pods of services reach the Redis that the chart installs.

The chart's own lets in the operator alone; policies add up. A namespace is named by the label that the API server gives
it and lets nobody change, so a pod elsewhere gets nowhere, whatever labels it has.
"""

from collections.abc import Iterable
from itertools import groupby

from easel_contract import names

from easel_operator.manifests.metadata import with_applied_hash
from easel_operator.objects import Json, ServiceKey


def name_policy(redis: str) -> str:
    """Beside the chart's, which is called as Redis is."""
    return f"{redis}-services"


def build_redis_policy(charts: Json, services: Iterable[ServiceKey]) -> Json:
    """For the pods and ports of the chart's policy, with which it is deleted."""
    metadata, spec = charts["metadata"], charts["spec"]
    by_namespace = groupby(sorted(services), key=lambda key: key.namespace)
    sources = [_build_source(namespace, [key.name for key in keys]) for namespace, keys in by_namespace]
    owner = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "name": metadata["name"],
        "uid": metadata["uid"],
    }
    return with_applied_hash(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {
                "namespace": metadata["namespace"],
                "name": name_policy(metadata["name"]),
                "labels": {names.LABEL_MANAGED_BY: names.FIELD_MANAGER},
                "ownerReferences": [owner],
            },
            "spec": {
                "podSelector": spec["podSelector"],
                "policyTypes": ["Ingress"],
                # A rule without sources would let in everybody.
                "ingress": [{"ports": spec["ingress"][0]["ports"], "from": sources}] if sources else [],
            },
        }
    )


def _build_source(namespace: str, services: list[str]) -> Json:
    roles = [names.COMPONENT_GATEWAY, names.COMPONENT_WORKER]
    return {
        "namespaceSelector": {"matchLabels": {names.LABEL_NAMESPACE_NAME: namespace}},
        "podSelector": {
            "matchExpressions": [
                {"key": names.LABEL_SERVICE, "operator": "In", "values": services},
                {"key": names.LABEL_COMPONENT, "operator": "In", "values": roles},
            ]
        },
    }
