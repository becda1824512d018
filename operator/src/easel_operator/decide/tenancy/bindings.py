"""The operator's bindings to Secrets, one in each namespace with services. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from easel_contract import names

from easel_operator.decide.drift import contains
from easel_operator.objects import CLUSTER_ROLES, ROLE_BINDINGS, Json

RBAC_GROUP = CLUSTER_ROLES.api_version.partition("/")[0]


@dataclass(frozen=True)
class BindingPlan:
    """What is to be done about the bindings of all namespaces."""

    applies: tuple[str, ...]  # namespaces whose binding is missing, or isn't as it must be
    deletes: tuple[Json, ...]  # live ones of namespaces without services
    kept: frozenset[str]  # namespaces whose binding is as it must be


def plan_bindings(wanted: Mapping[str, Json], live: Iterable[Json]) -> BindingPlan:
    """``wanted``: manifests by namespace; ``live``: all bindings of that name, in whatever namespace."""
    found = {body["metadata"]["namespace"]: body for body in live}
    kept = frozenset(namespace for namespace, body in wanted.items() if contains(found.get(namespace), body))
    return BindingPlan(
        applies=tuple(sorted(wanted.keys() - kept)),
        deletes=tuple(body for namespace, body in sorted(found.items()) if namespace not in wanted),
        kept=kept,
    )


def build_secrets_binding(namespace: str, role: Json, *, account: str, account_namespace: str) -> Json:
    """``role`` is the live ClusterRole: the binding has its name, and goes with it however the chart is removed."""
    name = role["metadata"]["name"]
    owner = {
        "apiVersion": CLUSTER_ROLES.api_version,
        "kind": CLUSTER_ROLES.kind,
        "name": name,
        "uid": role["metadata"]["uid"],
    }
    return {
        "apiVersion": ROLE_BINDINGS.api_version,
        "kind": ROLE_BINDINGS.kind,
        "metadata": {
            "namespace": namespace,
            "name": name,
            "labels": {names.LABEL_NAME: names.APP_NAME, names.LABEL_MANAGED_BY: names.FIELD_MANAGER},
            "ownerReferences": [owner],
        },
        "roleRef": {"apiGroup": RBAC_GROUP, "kind": CLUSTER_ROLES.kind, "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": account_namespace}],
    }
