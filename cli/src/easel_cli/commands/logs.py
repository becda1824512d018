"""``easel logs``: what gateways and workers wrote about one job, in the order of time."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Final

import typer
from easel_contract import names

from easel_cli.cluster import paths
from easel_cli.cluster.access import Cluster, Json
from easel_cli.cluster.errors import RefusedError
from easel_cli.decide.log_lines import LogLine, parse_line, select_lines
from easel_cli.decide.times import parse_duration
from easel_cli.errors import CliError, UsageError
from easel_cli.options import (
    ContextOption,
    JsonOption,
    KubeconfigOption,
    NamespaceOption,
    OptionalServiceArgument,
)
from easel_cli.terminal import as_record, build_console, print_json

MAX_PODS: Final = 500
MAX_BYTES_OF_A_POD: Final = 32 * 1024 * 1024
MAX_LINES: Final = 10_000  # that are shown
MAX_SINCE_SECONDS: Final = 30 * 86400
AT_ONCE: Final = 8  # logs that are read at the same time
ROLES: Final = (names.COMPONENT_GATEWAY, names.COMPONENT_WORKER)

JobOption = Annotated[str | None, typer.Option(metavar="ID", help="A prediction's id, as answers have it.")]
RequestOption = Annotated[str | None, typer.Option(metavar="ID", help="A request's id: the answer's X-Request-ID.")]
SinceOption = Annotated[str, typer.Option(metavar="TIME", help="How far back: 90s, 15m, 3h, 2d.")]


def logs(
    name: OptionalServiceArgument = None,
    job: JobOption = None,
    request: RequestOption = None,
    since: SinceOption = "1h",
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    *,
    json: JsonOption = False,
) -> None:
    """Show what gateways and workers logged about one job, merged in the order of time."""
    if job is None and request is None:
        raise UsageError("--job or --request is needed: whose lines are looked for")
    seconds = parse_duration(since, "--since", max_seconds=MAX_SINCE_SECONDS)
    with Cluster.open(kubeconfig, context, namespace) as cluster:
        pods = _list_pods(cluster, name)
        found = select_lines(_gather(cluster, pods, seconds), job=job, request=request)
    if not found:
        raise CliError(
            f"no line about {job or request} in the last {since} of {len(pods)} pods; look further back by --since, or "
            "in another namespace by -n. Kubernetes keeps no logs of pods that are gone"
        )
    if json:
        print_json(as_record(found[:MAX_LINES]))
        return
    console = build_console()
    for line in found[:MAX_LINES]:
        console.print(_render(line), soft_wrap=True)
    if len(found) > MAX_LINES:
        build_console(is_error=True).print(f"{len(found) - MAX_LINES} more lines are left out; ask by --since for less")


def _list_pods(cluster: Cluster, name: str | None) -> list[Json]:
    service = f"{names.LABEL_SERVICE}={name}" if name is not None else names.LABEL_SERVICE
    selector = f"{service},{names.LABEL_COMPONENT} in ({','.join(ROLES)})"
    pods = cluster.list_all(paths.core(cluster.namespace, "pods"), "list pods", labelSelector=selector)
    if not pods:
        whose = f"of service {name}" if name is not None else "of services"
        raise CliError(f"no pods {whose} in namespace {cluster.namespace}; another namespace: -n")
    if len(pods) > MAX_PODS:
        raise UsageError(f"{len(pods)} pods have logs, at most {MAX_PODS} are read; name one service")
    return pods


def _gather(cluster: Cluster, pods: list[Json], seconds: int) -> Iterator[LogLine]:
    """Of containers as they run now, and as they ran before their last restart."""
    asked = [(pod, is_previous) for pod in pods for is_previous in (True, False) if not is_previous or _restarted(pod)]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for lines in threads.map(lambda each: _read(cluster, each[0], seconds, is_previous=each[1]), asked):
            yield from lines


def _read(cluster: Cluster, pod: Json, seconds: int, *, is_previous: bool) -> list[LogLine]:
    name = pod["metadata"]["name"]
    query = {"container": names.CONTAINER_NAME, "sinceSeconds": str(seconds), "limitBytes": str(MAX_BYTES_OF_A_POD)}
    query |= {"previous": "true"} if is_previous else {}
    path = f"{paths.core(cluster.namespace, 'pods', name)}/log"
    try:
        text = cluster.request("GET", path, f"read the log of pod {name}", query=query)
    except RefusedError as error:
        if error.is_forbidden:
            raise
        return []  # it has gone meanwhile, or its container hasn't begun
    return [parse_line(name, line) for line in text.decode(errors="replace").splitlines() if line]


def _restarted(pod: Json) -> bool:
    statuses = pod.get("status", {}).get("containerStatuses") or ()
    return any(each["name"] == names.CONTAINER_NAME and each.get("restartCount") for each in statuses)


def _render(line: LogLine) -> str:
    fields = " ".join(f"{name}={value}" for name, value in line.fields.items())
    text = f"{line.time} {line.pod} {line.level} {line.message}"
    return "\n".join(part for part in (f"{text} {fields}".rstrip(), line.exception) if part)
