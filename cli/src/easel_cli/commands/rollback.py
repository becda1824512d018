"""``easel rollback``: a service's workers run an earlier revision again."""

import sys
from typing import Annotated

import typer

from easel_cli.cluster import paths
from easel_cli.cluster.access import Cluster
from easel_cli.cluster.gateways import find_service
from easel_cli.decide.rollback_plan import plan_clearing, plan_rollback
from easel_cli.errors import UsageError
from easel_cli.options import ContextOption, JsonOption, KubeconfigOption, NamespaceOption, ServiceArgument
from easel_cli.terminal import build_console, print_json

ToOption = Annotated[
    int | None,
    typer.Option(metavar="REVISION", min=1, help="The last one that a worker was ready of, if unset."),
]
ClearOption = Annotated[bool, typer.Option("--clear", help="Let the spec count again, after an earlier rollback.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]
DryOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; the API server checks it.")]


def rollback(
    name: ServiceArgument,
    to: ToOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    *,
    clear: ClearOption = False,
    yes: YesOption = False,
    dry_run: DryOption = False,
    json: JsonOption = False,
) -> None:
    """Run an earlier revision of a service's workers again (spec.rollout.toRevision), or end that."""
    if clear and to is not None:
        raise UsageError("--clear and --to say opposite things; leave one out")
    with Cluster.open(kubeconfig, context, namespace) as cluster:
        service = find_service(cluster, name)
        plan = plan_clearing(service) if clear else plan_rollback(service, to)
        console = build_console(is_error=json)
        for sentence in plan.sentences:
            console.print(sentence, soft_wrap=True)
        if not (yes or dry_run):
            _confirm()
        pinned = {"metadata": {"uid": service["metadata"]["uid"]}}  # not one that took its name since
        path = paths.service(cluster.namespace, name)
        cluster.merge(path, {**plan.change, **pinned}, f"change service {name}", is_dry=dry_run)
    if json:
        print_json({"service": name, "toRevision": plan.to_revision, "dryRun": dry_run})
        return
    done = "nothing was changed (--dry-run)" if dry_run else f"done; easel status {name} --watch follows it"
    console.print(done)


def _confirm() -> None:
    """Raises typer.Abort for a no, and UsageError where nobody can be asked."""
    if not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask at; --yes does it without asking, --dry-run only says it")
    typer.confirm("Go on?", abort=True)
