"""``easel init``: manifests of a service, from questions or flags."""

import os
import secrets
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from easel_contract import names

from easel_cli.cluster import paths
from easel_cli.cluster.access import Cluster
from easel_cli.decide.new_service import MODEL_FORMS, Answers, build_manifests, describe_next_steps
from easel_cli.errors import UsageError
from easel_cli.options import ContextOption, JsonOption, KubeconfigOption, NamespaceOption
from easel_cli.release import find_release
from easel_cli.terminal import build_console, print_json

KEY_BYTES: Final = 24
OWNER_ONLY: Final = 0o600  # the file may hold keys
LOADER: Final = "ghcr.io/easel-dev/easel-worker"
PATHS: Final = {
    "Secret": lambda namespace, name: paths.core(namespace, "secrets", name),
    "PersistentVolumeClaim": lambda namespace, name: paths.core(namespace, "persistentvolumeclaims", name),
    "Job": lambda namespace, name: paths.grouped("batch/v1", namespace, "jobs", name),
    names.KIND: lambda namespace, name: paths.grouped(
        f"{names.API_GROUP}/{names.SERVED_API_VERSIONS[0]}", namespace, names.PLURAL, name
    ),
}

NameArgument = Annotated[str | None, typer.Argument(metavar="NAME", help="Of the service.")]
ModelOption = Annotated[str | None, typer.Option(metavar="MODEL", help=f"{MODEL_FORMS}.")]
CacheOption = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Keep what is fetched on a claim of the service's own; Easel's Job fills it."),
]
StorageOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Of the claim that is made; the cluster's default if unset.")
]
LoadOption = Annotated[
    str | None,
    typer.Option(metavar="ORG/REPOSITORY[@REVISION]", help="Of pvc://CLAIM: write a Job that puts this one there."),
]
ClaimOption = Annotated[str | None, typer.Option(metavar="SIZE", help="Of pvc://CLAIM: write that claim, too.")]
TokenSecretOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="A Secret with a token of the Hub under the key token.")
]
TokenOption = Annotated[
    bool, typer.Option("--with-hub-token", help=f"Write that Secret, with the token in {names.ENV_HUB_TOKEN}.")
]
GpuOption = Annotated[str, typer.Option(metavar="RESOURCE", help="Extended resource of a GPU.")]
GpusOption = Annotated[int, typer.Option(metavar="N", min=0, help="GPUs of a worker; 0 runs on CPU.")]
MinOption = Annotated[int, typer.Option("--min", metavar="N", min=0, help="Workers while nobody asks.")]
MaxOption = Annotated[int, typer.Option("--max", metavar="N", min=1, help="Workers at most.")]
TargetOption = Annotated[
    int, typer.Option("--target-seconds", metavar="S", min=1, help="From a request to its images, for nearly all.")
]
CustomerOption = Annotated[
    list[str] | None,
    typer.Option("--customer", metavar="NAME", help="Ask for keys, and make one for this customer; may be repeated."),
]
ImageOption = Annotated[str | None, typer.Option(metavar="IMAGE", help="Of the Job that loads a model; the release's.")]
OutputOption = Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Standard output if unset.")]
ApplyOption = Annotated[bool, typer.Option("--apply", help="Apply it to the cluster instead of printing it.")]


def init(
    name: NameArgument = None,
    model: ModelOption = None,
    cache_size: CacheOption = None,
    storage_class: StorageOption = None,
    load_from: LoadOption = None,
    claim_size: ClaimOption = None,
    hub_token_secret: TokenSecretOption = None,
    gpu_resource: GpuOption = "nvidia.com/gpu",
    gpus: GpusOption = 1,
    min_replicas: MinOption = 0,
    max_replicas: MaxOption = 4,
    target_seconds: TargetOption = 30,
    customer: CustomerOption = None,
    loader_image: ImageOption = None,
    output: OutputOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    *,
    with_hub_token: TokenOption = False,
    apply: ApplyOption = False,
    json: JsonOption = False,
) -> None:
    """Write a service, its Secrets and a Job that loads its model, from questions or flags."""
    given: dict[str, Any] = {"name": name, "model": model, "max_replicas": max_replicas}
    if name is None or model is None:
        given = _ask(name, model, max_replicas)
    token = _read_token() if with_hub_token else None
    answers = Answers(
        **given,
        cache_size=cache_size,
        storage_class=storage_class,
        load_from=load_from,
        claim_size=claim_size,
        hub_token_secret=hub_token_secret or (f"{given['name']}-hub-token" if token else None),
        hub_token=token,
        gpu_resource=gpu_resource,
        gpus=gpus,
        min_replicas=min_replicas,
        target_seconds=target_seconds,
        api_keys={each: f"esl_live_{secrets.token_urlsafe(KEY_BYTES)}" for each in customer or ()},
        loader_image=loader_image or f"{LOADER}:{find_release()}",
        namespace=namespace,
    )
    manifests = build_manifests(answers)
    if apply:
        with Cluster.open(kubeconfig, context, namespace) as cluster:
            _apply(cluster, manifests)
    elif json:
        print_json({"apiVersion": "v1", "kind": "List", "items": manifests})
        return
    else:
        _write(manifests, output)
    steps = describe_next_steps(answers, manifests, "" if apply else f"kubectl apply -f {output or 'FILE'}")
    for step in ("then:", *(f"  {each}" for each in steps)):
        build_console(is_error=True).print(step, soft_wrap=True)


def _ask(name: str | None, model: str | None, max_replicas: int) -> dict[str, Any]:
    """What wasn't said. Raises UsageError where nobody can be asked."""
    if not sys.stdin.isatty():
        missing = " and ".join(label for label, value in (("NAME", name), ("--model", model)) if value is None)
        raise UsageError(f"{missing} is needed where there is no terminal to ask at; easel init --help lists all")
    return {
        "name": name or typer.prompt("Name of the service"),
        "model": model or typer.prompt(f"Model ({MODEL_FORMS})"),
        "max_replicas": typer.prompt("Workers at most", default=max_replicas),
    }


def _read_token() -> str:
    token = os.environ.get(names.ENV_HUB_TOKEN, "").strip()
    if not token:
        raise UsageError(f"--with-hub-token: {names.ENV_HUB_TOKEN} isn't set in this shell")
    return token


def _apply(cluster: Cluster, manifests: list[dict[str, Any]]) -> None:
    console = build_console(is_error=True)
    for manifest in manifests:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        cluster.apply(PATHS[kind](cluster.namespace, name), manifest, f"apply {kind} {name}")
        console.print(f"{kind} {name} applied")


def _write(manifests: list[dict[str, Any]], output: Path | None) -> None:
    import yaml  # noqa: PLC0415 - of this command alone

    text = yaml.safe_dump_all(manifests, sort_keys=False, allow_unicode=True, width=120)
    if output is None:
        sys.stdout.write(text)
        return
    try:
        with os.fdopen(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY), "w") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"--output: {output} exists and isn't overwritten; name another file") from None
    except OSError as error:
        raise UsageError(f"--output: can't write {output}: {error.strerror}") from None
