"""``easel usage``: what customers have used of services, and what it costs."""

import sys
from datetime import UTC, date, datetime
from json import loads
from typing import Annotated, Final

import typer
from easel_contract import names

from easel_cli.cluster import paths
from easel_cli.cluster.access import Cluster
from easel_cli.cluster.errors import RefusedError
from easel_cli.cluster.gateways import find_ready_gateway, find_service
from easel_cli.cluster.pods import proxy
from easel_cli.decide.times import parse_days
from easel_cli.decide.usage_report import UsageRow, parse_usage, total_by_customer, write_csv
from easel_cli.errors import CliError, UsageError
from easel_cli.options import (
    ContextOption,
    JsonOption,
    KubeconfigOption,
    NamespaceOption,
    OptionalServiceArgument,
)
from easel_cli.terminal import as_record, build_console, build_table, print_json, show

USAGE_PATH: Final = "/usage"
MAX_SERVICES: Final = 500

SinceOption = Annotated[str | None, typer.Option(metavar="YYYY-MM-DD", help="The first day; the month's if unset.")]
UntilOption = Annotated[str | None, typer.Option(metavar="YYYY-MM-DD", help="The last day; today (UTC) if unset.")]
CsvOption = Annotated[bool, typer.Option("--csv", help="A line for each day and customer, for spreadsheets.")]
DaysOption = Annotated[bool, typer.Option("--by-day", help="A row for each day instead of the sum.")]


def usage(
    name: OptionalServiceArgument = None,
    since: SinceOption = None,
    until: UntilOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    *,
    by_day: DaysOption = False,
    csv: CsvOption = False,
    json: JsonOption = False,
) -> None:
    """Show jobs, images, GPU-seconds and cost by customer, of one service or of all in the namespace."""
    if csv and json:
        raise UsageError("--csv and --json are two forms of the same; leave one out")
    first, last = parse_days(since, until, datetime.now(UTC).date())
    with Cluster.open(kubeconfig, context, namespace) as cluster:
        services = [find_service(cluster, name)["metadata"]["name"]] if name else _list_names(cluster)
        rows = [row for service in services for row in _gather(cluster, service, first, last)]
    if csv:
        sys.stdout.write(write_csv(rows))
    elif json:
        print_json([{**as_record(row), "cost": row.cost} for row in rows])
    else:
        _render(rows, first, last, by_day=by_day)


def _list_names(cluster: Cluster) -> list[str]:
    found = cluster.list_all(paths.services(cluster.namespace), "list services")
    if not found:
        raise UsageError(f"no service in namespace {cluster.namespace}; another namespace: -n")
    if len(found) > MAX_SERVICES:
        raise UsageError(f"namespace {cluster.namespace} has {len(found)} services; name one")
    return sorted(str(each["metadata"]["name"]) for each in found)


def _gather(cluster: Cluster, service: str, first: date, last: date) -> list[UsageRow]:
    """Any gateway answers for the whole service. Raises CliError."""
    pod = find_ready_gateway(cluster, service)
    asked = f"read the usage of {service} at pod {pod['metadata']['name']}"
    days = {"since": first.isoformat(), "until": last.isoformat()}
    try:
        answer = proxy(cluster, pod, names.METRICS_PORT, USAGE_PATH, asked, **days)
        return parse_usage(loads(answer))
    except RefusedError as error:
        if not error.is_missing:
            raise
        raise CliError(f"{service}: its gateways are of a release that counts no usage; let the roll-out end") from None
    except ValueError as error:
        raise CliError(f"{service}: its gateway's answer can't be read ({error}); is easel as new as it?") from None


def _render(rows: list[UsageRow], first: date, last: date, *, by_day: bool) -> None:
    console = build_console()
    console.print(f"{first} to {last}, days in UTC")
    if not rows:
        console.print("nothing was used")
        return
    shown = rows if by_day else total_by_customer(rows)
    columns = ("SERVICE", *(("DAY",) if by_day else ()), "CUSTOMER", "JOBS", "IMAGES", "GPU-SECONDS", "COST")
    table = build_table(
        columns,
        [
            (
                row.service,
                *((row.day,) if by_day else ()),
                row.customer,
                str(row.jobs),
                str(row.images),
                f"{row.gpu_seconds:.1f}",
                "no price" if row.cost is None else f"{row.cost:.2f} {row.currency}".rstrip(),
            )
            for row in shown
        ],
    )
    show(console, table)
