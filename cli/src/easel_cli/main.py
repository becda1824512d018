"""The command line: its commands, and what every one of them ends with."""

import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final

import typer
from typer.exceptions import TyperException

from easel_cli.commands.doctor import doctor
from easel_cli.commands.generate import generate
from easel_cli.commands.init import init
from easel_cli.commands.logs import logs
from easel_cli.commands.rollback import rollback
from easel_cli.commands.status import status
from easel_cli.commands.usage import usage
from easel_cli.errors import CliError, ExitStatus
from easel_cli.release import find_release
from easel_cli.simulate import command as simulate

PLUGIN: Final = "kubectl-easel"  # the file that kubectl looks for when somebody types "kubectl easel"
COMPLETION_VARIABLE: Final = "_EASEL_COMPLETE"  # with which a shell asks what may follow

app = typer.Typer(
    name="easel",
    help="Stable Diffusion on Kubernetes: use, run and watch over services.",
    rich_markup_mode=None,  # what is printed is the same on a terminal, in a pipe and in a document
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:  # noqa: FBT001 - as Typer calls it
    if asked:
        sys.stdout.write(f"easel {find_release()}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    del version


for command in (status, generate, doctor, init, logs, rollback, usage):
    app.command()(command)
simulate.add_to(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its ExitStatus. What the user can change is said in a line, without a traceback."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        # Without a command: what there is.
        status = typer.main.get_command(app).main(
            given or ["--help"], prog_name=find_name(), complete_var=COMPLETION_VARIABLE, standalone_mode=False
        )
        sys.stdout.flush()  # what is buffered meets a reader that has gone here, and not as Python ends
    except CliError as error:
        return _refuse(str(error), error.status)
    except TyperException as error:
        context = getattr(error, "ctx", None)
        hint = f"\nTry '{context.command_path} --help'." if context is not None else ""
        return _refuse(f"{error.format_message()}{hint}", ExitStatus.USAGE)
    except (typer.Abort, KeyboardInterrupt):
        return _refuse("stopped", ExitStatus.INTERRUPTED)
    except BrokenPipeError:  # whoever read has enough, such as head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitStatus.OK
    if status == ExitStatus.INTERRUPTED:  # Typer's own answer to Ctrl-C
        return _refuse("stopped", ExitStatus.INTERRUPTED)
    return status if isinstance(status, int) else ExitStatus.OK


def find_name() -> str:
    """What the user has typed."""
    return "kubectl easel" if Path(sys.argv[0]).name.startswith(PLUGIN) else "easel"


def _refuse(message: str, status: ExitStatus) -> int:
    sys.stderr.write(f"easel: {message}\n")
    return status


def complete_for_kubectl() -> int:
    """``kubectl_complete-easel``: what may follow ``kubectl easel …``, as kubectl asks its plugins.

    The last argument is the word that isn't finished; ``:4`` says that no files are to be offered beside.
    https://kubernetes.io/docs/tasks/extend-kubectl/kubectl-plugins/
    """
    words = ["easel", *sys.argv[1:]]
    asked = {COMPLETION_VARIABLE: "complete_bash", "COMP_WORDS": shlex.join(words), "COMP_CWORD": str(len(words) - 1)}
    os.environ.update(asked)
    with suppress(SystemExit):  # as Typer ends when it has answered
        main([])
    sys.stdout.write(":4\n")
    return ExitStatus.OK
