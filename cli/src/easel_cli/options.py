"""Options that several commands have, and the cluster that they mean."""

from pathlib import Path
from typing import Annotated

import typer

from easel_cli.completion import complete_services

NamespaceOption = Annotated[
    str | None, typer.Option("--namespace", "-n", metavar="NAMESPACE", help="The context's own if unset.")
]
ContextOption = Annotated[
    str | None, typer.Option("--context", metavar="NAME", help="Of the kubeconfig; its current one if unset.")
]
KubeconfigOption = Annotated[
    Path | None, typer.Option("--kubeconfig", metavar="FILE", help="KUBECONFIG, or ~/.kube/config, if unset.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Data for programs instead of text.")]
ServiceArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="A StableDiffusionService.", autocompletion=complete_services)
]
OptionalServiceArgument = Annotated[
    str | None, typer.Argument(metavar="NAME", help="A StableDiffusionService.", autocompletion=complete_services)
]
