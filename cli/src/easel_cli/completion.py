"""What a shell offers behind ``easel COMMAND``: the names of services, if the cluster says them soon enough."""

from typing import Final

import typer

from easel_cli.cluster import paths
from easel_cli.cluster.access import Cluster
from easel_cli.errors import CliError

MAX_OFFERED: Final = 200


def complete_services(context: typer.Context, incomplete: str) -> list[str]:
    """Services of the namespace that the line names so far. Nothing where the cluster can't be asked."""
    given = context.params
    try:
        with Cluster.open(given.get("kubeconfig"), given.get("context"), given.get("namespace")) as cluster:
            path = paths.services(cluster.namespace)
            found = cluster.get(path, "list services", limit=str(MAX_OFFERED))["items"]
    except CliError:
        return []
    names = [str(each["metadata"]["name"]) for each in found]
    return [name for name in names if name.startswith(incomplete)]
