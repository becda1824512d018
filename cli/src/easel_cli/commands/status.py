"""``easel status``: why a service has so many workers, what is wrong, and what to do."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Final

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from easel_cli.cluster import paths
from easel_cli.cluster.access import Cluster, Json
from easel_cli.cluster.errors import UnreachableError
from easel_cli.decide.service_view import Problem, ServiceView, build_view
from easel_cli.errors import CliError
from easel_cli.options import (
    ContextOption,
    JsonOption,
    KubeconfigOption,
    NamespaceOption,
    OptionalServiceArgument,
)
from easel_cli.terminal import as_record, build_console, build_table, describe_seconds, print_json, show

WATCH_SECONDS: Final = 2.0
STYLES: Final = {"True": "green", "False": "bold red", "Unknown": "yellow"}
Build = Callable[[list[ServiceView], datetime], RenderableType]
COLUMNS: Final = ("NAMESPACE", "NAME", "READY", "REASON", "WORKERS", "WHY")

AllOption = Annotated[bool, typer.Option("--all-namespaces", "-A", help="Services of every namespace.")]
WatchOption = Annotated[bool, typer.Option("--watch", "-w", help="Until Ctrl-C: what changes is shown as it changes.")]


def status(
    name: OptionalServiceArgument = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    *,
    all_namespaces: AllOption = False,
    watch: WatchOption = False,
    json: JsonOption = False,
) -> None:
    """Show why services have so many workers, what is wrong, and what to do."""
    with Cluster.open(kubeconfig, context, namespace) as cluster:
        look = partial(_look, cluster, name, None if all_namespaces and name is None else cluster.namespace)
        if watch and json:
            raise CliError("--watch is for people; run --json again and again instead")
        if json:
            print_json(as_record(look()[0] if name is not None else look()))
            return
        build = _build_detail if name is not None else _build_list
        if watch:
            _watch(look, build)
        else:
            show(build_console(), build(look(), datetime.now(UTC)))


def _look(cluster: Cluster, name: str | None, namespace: str | None) -> list[ServiceView]:
    if name is not None:
        service = cluster.find(paths.service(cluster.namespace, name), f"read service {name}")
        if service is None:
            raise CliError(_say_missing(name, cluster.namespace, _list_services(cluster, cluster.namespace)))
        return [build_view(service)]
    return [build_view(each) for each in _list_services(cluster, namespace)]


def _list_services(cluster: Cluster, namespace: str | None) -> list[Json]:
    found = cluster.list_all(paths.services(namespace), "list services")
    return sorted(found, key=lambda each: (each["metadata"]["namespace"], each["metadata"]["name"]))


def _say_missing(name: str, namespace: str, others: list[Json]) -> str:
    names = ", ".join(each["metadata"]["name"] for each in others[:10])
    there = f"there are {names}" if names else "there is none; easel init makes one"
    return f"no service {name} in namespace {namespace}: {there}. Another namespace: -n, all of them: easel status -A"


def _watch(look: Callable[[], list[ServiceView]], build: Build) -> None:
    """What changes, as it changes. The cluster may be away for a while."""
    console = build_console()
    seen = look()
    if console.is_terminal:
        with Live(build(seen, datetime.now(UTC)), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(WATCH_SECONDS)
                try:
                    live.update(build(look(), datetime.now(UTC)), refresh=True)
                except UnreachableError as error:
                    live.update(Text(str(error)), refresh=True)
    show(console, build(seen, datetime.now(UTC)))
    while True:
        time.sleep(WATCH_SECONDS)
        if (now := look()) != seen:
            seen = now
            show(console, build(seen, datetime.now(UTC)))


def _build_list(views: list[ServiceView], now: datetime) -> RenderableType:
    if not views:
        return Text("no services here; another namespace: -n NAME, all of them: -A, a first one: easel init")
    rows = [
        (
            view.namespace,
            view.name,
            Text(view.ready, STYLES.get(view.ready, "")),
            view.reason,
            f"{view.ready_workers}/{view.desired_workers if view.desired_workers is not None else view.workers}",
            view.why,
        )
        for view in views
    ]
    wrong = [
        Text.assemble((f"{view.name}: ", "bold"), _say_problem(problem, now))
        for view in views
        for problem in view.problems
    ]
    return Group(build_table(COLUMNS, rows, wrapped="WHY"), *([Text("")] if wrong else []), *wrong)


def _build_detail(views: list[ServiceView], now: datetime) -> RenderableType:
    (view,) = views
    wanted = f", {view.desired_workers} wanted" if view.desired_workers is not None else ""
    title = Text.assemble(
        (f"{view.namespace}/{view.name}", "bold"), "  Ready=", (view.ready, STYLES.get(view.ready, "")),
        f", {view.reason}: {view.message}",
    )  # fmt: skip
    lines = [
        ("workers", f"{view.ready_workers} of {view.workers} ready{wanted}"),
        ("why", view.why + (f" ({_since(view.decided_at, now)} ago)" if view.decided_at else "")),
        *(("wrong", _say_problem(problem, now)) for problem in view.problems),
        *(("advice", text) for text in view.advice),
        *((label, text) for label, text in (("rollout", view.rollout), ("canary", view.canary)) if text),
        *([("address", view.url)] if view.url else []),
    ]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for label, text in lines:
        grid.add_row(f"  {label}", Text(text))
    return Group(title, grid, *([Text(""), _build_revisions(view)] if view.revisions else []))


def _build_revisions(view: ServiceView) -> RenderableType:
    rows = [
        (
            str(each.number),
            each.since,
            "yes" if each.was_ready else "no",
            "runs now" if each.is_newest else "",
            each.image,
            each.model,
        )
        for each in reversed(view.revisions)
    ]
    return build_table(("REVISION", "SINCE", "WAS READY", "", "IMAGE", "MODEL"), rows, wrapped="MODEL")


def _say_problem(problem: Problem, now: datetime) -> str:
    since = f", for {_since(problem.since, now)}" if problem.since else ""
    return f"{', '.join(problem.conditions)} ({problem.reason}{since}): {problem.message}"


def _since(moment: datetime | None, now: datetime) -> str:
    return describe_seconds((now - moment).total_seconds()) if moment else ""
