"""``easel doctor``: what a cluster and its services lack, and what to do about it."""

from collections import Counter
from typing import Final

import typer
from rich.text import Text

from easel_cli.cluster import paths
from easel_cli.cluster.access import Cluster
from easel_cli.cluster.errors import RefusedError
from easel_cli.cluster.gateways import find_service
from easel_cli.doctor.cluster_checks import check_cluster
from easel_cli.doctor.facts import CheckResult, Level
from easel_cli.doctor.gather import gather_cluster, gather_service
from easel_cli.doctor.service_checks import check_service
from easel_cli.errors import ExitStatus
from easel_cli.options import (
    ContextOption,
    JsonOption,
    KubeconfigOption,
    NamespaceOption,
    OptionalServiceArgument,
)
from easel_cli.terminal import as_record, build_console, print_json

MAX_SERVICES: Final = 20
STYLES: Final = {Level.OK: "green", Level.WARNING: "yellow", Level.FAILED: "bold red", Level.UNKNOWN: "dim"}


def doctor(
    name: OptionalServiceArgument = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    *,
    json: JsonOption = False,
) -> None:
    """Check what the cluster and services need, and say what to do. Exit status 1 where a check failed."""
    with Cluster.open(kubeconfig, context, namespace) as cluster:
        facts = gather_cluster(cluster)
        results = check_cluster(facts)
        for service in _list_services(cluster, name):
            results += check_service(facts, gather_service(cluster, service))
    if json:
        print_json(as_record(results))
    else:
        _render(results)
    if any(result.level is Level.FAILED for result in results):
        raise typer.Exit(ExitStatus.FAILED)


def _list_services(cluster: Cluster, name: str | None) -> list[dict[str, object]]:
    """The one that is named, or those of the namespace; none where the cluster has no such kind or no rights to it."""
    if name is not None:
        return [find_service(cluster, name)]
    try:
        return cluster.list_all(paths.services(cluster.namespace), "list services")[:MAX_SERVICES]
    except RefusedError:
        return []


def _render(results: list[CheckResult]) -> None:
    console = build_console()
    about = None
    for result in results:
        if result.service != about:
            about = result.service
            console.print(Text(about or "cluster", "bold"))
        console.print(
            Text.assemble((f"  {result.level:<9}", STYLES[result.level]), f"{result.check}: {result.message}"),
            soft_wrap=True,
        )
        if result.next_step:
            console.print(f"           next: {result.next_step}", soft_wrap=True)
    counts = Counter(result.level for result in results)
    console.print(", ".join(f"{counts[level]} {level}" for level in Level if counts[level]))
