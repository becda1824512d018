"""The RoleBinding by which the operator may read and write Secrets in one namespace, while services live there."""

from easel_contract import names

from easel_operator.objects import CLUSTER_ROLES, ROLE_BINDINGS, Json

RBAC_GROUP = CLUSTER_ROLES.api_version.partition("/")[0]


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
