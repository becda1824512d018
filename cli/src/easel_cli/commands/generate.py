"""``easel generate``: an image from a prompt, through a service's gateway, into files."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from easel_contract import names
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from easel_cli.cluster.access import Cluster
from easel_cli.cluster.gateways import find_api_key, find_ready_gateway, find_service
from easel_cli.cluster.pods import forward
from easel_cli.completion import complete_services
from easel_cli.decide.image_job import JobEnd, JobProgress, choose_files, parse_size
from easel_cli.errors import CliError, UsageError
from easel_cli.gateway import Gateway, GatewayError
from easel_cli.options import ContextOption, JsonOption, KubeconfigOption, NamespaceOption
from easel_cli.terminal import build_console, print_json

FORWARDED_URL: Final = "http://localhost"  # a name that every gateway answers to
RETRY_SECONDS: Final = 1.0
MAX_LOST: Final = 60  # connections in a row that said nothing, before it is over

Show = Callable[[JobProgress], None]

PromptArgument = Annotated[str, typer.Argument(metavar="PROMPT", help="What the image shows.")]
ServiceOption = Annotated[
    str | None,
    typer.Option(
        "--service", "-s", metavar="NAME", help="The only one of the namespace if unset.",
        autocompletion=complete_services,
    ),
]  # fmt: skip
UrlOption = Annotated[
    str | None, typer.Option(metavar="URL", help="A gateway's address, instead of a service of a cluster.")
]
KeyOption = Annotated[
    str | None,
    typer.Option(envvar="EASEL_API_KEY", metavar="KEY", help="If unset, one of the service's Secret, if it has one."),
]
CustomerOption = Annotated[str | None, typer.Option(metavar="NAME", help="Whose key of that Secret is used.")]
SeedOption = Annotated[int | None, typer.Option(metavar="N", help="The same one gives the same image again.")]
CountOption = Annotated[int, typer.Option("--n", "-c", metavar="N", min=1, help="So many images.")]
SizeOption = Annotated[str | None, typer.Option(metavar="WIDTHxHEIGHT", help="What suits the model if unset.")]
StepsOption = Annotated[int | None, typer.Option(metavar="N", min=1, help="Denoising steps.")]
NegativeOption = Annotated[str | None, typer.Option(metavar="TEXT", help="What the image doesn't show.")]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="PATH",
        help="A file, or a directory. If unset: easel-ID.png here. Several images are numbered.",
    ),
]  # fmt: skip


def generate(
    prompt: PromptArgument,
    service: ServiceOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    customer: CustomerOption = None,
    seed: SeedOption = None,
    n: CountOption = 1,
    size: SizeOption = None,
    steps: StepsOption = None,
    negative_prompt: NegativeOption = None,
    output: OutputOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    *,
    json: JsonOption = False,
) -> None:
    """Generate images from a prompt and save them. Ctrl-C cancels the job."""
    width, height = parse_size(size)
    given = {
        "prompt": prompt, "seed": seed, "num_outputs": n, "width": width, "height": height,
        "num_inference_steps": steps, "negative_prompt": negative_prompt,
    }  # fmt: skip
    parameters = {name: value for name, value in given.items() if value is not None}
    if url is not None:
        if service is not None:
            raise UsageError("--url and --service name two places; leave one out")
        with Gateway(url, api_key) as gateway:
            _generate(gateway, parameters, n, output, as_json=json)
        return
    with Cluster.open(kubeconfig, context, namespace) as cluster:
        found = find_service(cluster, service)
        key = api_key or find_api_key(cluster, found, customer)
        pod = find_ready_gateway(cluster, found["metadata"]["name"])
        with Gateway(FORWARDED_URL, key, forward(cluster, pod, names.HTTP_PORT)) as gateway:
            _generate(gateway, parameters, n, output, as_json=json)


def _generate(gateway: Gateway, parameters: dict[str, Any], n: int, output: Path | None, *, as_json: bool) -> None:
    prediction_id = str(gateway.create(parameters)["id"])
    try:
        with _shown_progress(prediction_id) as show:
            warnings = _follow_to_end(gateway, prediction_id, show).warnings
        prediction = gateway.get(prediction_id)
        files = _save(gateway, prediction_id, n, output)
    except KeyboardInterrupt:
        with suppress(GatewayError):
            gateway.cancel(prediction_id)
            raise typer.Abort from None
        raise CliError(f"stopped; job {prediction_id} couldn't be canceled and may go on") from None
    if as_json:
        kept = {"id": prediction_id, "files": files, "input": prediction["input"], "metrics": prediction["metrics"]}
        print_json({**kept, "model": prediction["model"], "warnings": warnings})
        return
    for warning in warnings:
        build_console(is_error=True).print(f"warning: {warning}")
    for file in files:
        build_console().print(str(file), soft_wrap=True)


def _follow_to_end(gateway: Gateway, prediction_id: str, show: Show) -> JobEnd:
    """Over lost connections: a stream begins with the state of things. Raises CliError if there is no image."""
    end, progress, lost = JobEnd(), JobProgress(), 0
    while not end.is_over:
        for event in gateway.follow(prediction_id):
            lost = 0
            end.note(event)
            progress = progress.follow(event)
            show(progress)
        if not end.is_over:
            lost += 1
            if lost > MAX_LOST:
                raise CliError(f"the connection was lost, and job {prediction_id} goes on; easel logs --job follows it")
            time.sleep(RETRY_SECONDS)
    if end.is_canceled:
        raise CliError(f"job {prediction_id} was canceled")
    if end.error:
        raise CliError(f"job {prediction_id} failed: {end.error}; easel logs --job {prediction_id} says more")
    return end


@contextmanager
def _shown_progress(prediction_id: str) -> Iterator[Show]:
    """A bar on a terminal's standard error, a line for each change elsewhere."""
    console = build_console(is_error=True)
    console.print(f"job {prediction_id}")  # which logs can be asked for
    if not console.is_terminal:
        said = set[str]()

        def show_line(progress: JobProgress) -> None:
            text = progress.text.partition(",")[0]
            if text not in said and not text.startswith("step "):
                said.add(text)
                console.print(text)

        yield show_line
        return
    columns = (SpinnerColumn(), BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("sent", total=None)

        def show_bar(progress: JobProgress) -> None:
            bar.update(task, description=progress.text, total=progress.steps or None, completed=progress.steps_done)

        yield show_bar


def _save(gateway: Gateway, prediction_id: str, n: int, output: Path | None) -> list[str]:
    images = [gateway.fetch(prediction_id, index) for index in range(n)]
    is_directory = output is not None and output.is_dir()
    files = choose_files(output, prediction_id, [kind for _, kind in images], is_directory=is_directory)
    for file, (content, _) in zip(files, images, strict=True):
        try:
            file.write_bytes(content)
        except OSError as error:
            raise UsageError(
                f"--output: can't write {file}: {error.strerror}; job {prediction_id} has the images"
            ) from None
    return [str(file) for file in files]
