"""Writes docs/cli-reference.md from the commands' own definition; ``--check`` only compares, for ``make check``."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import typer
from easel_cli.main import app

PAGE: Final = Path(__file__).resolve().parents[1] / "docs/cli-reference.md"
HEADER: Final = """# Every command and option of `easel`

Written by `scripts/write_cli_reference.py` from the commands themselves. How they are used: [cli.md](cli.md).
"""


def build_page() -> str:
    """The whole page."""
    group: Any = typer.main.get_command(app)
    context = typer.Context(group, info_name="easel")
    return HEADER + "".join(_build_command(context, command) for command in group.commands.values())


def _build_command(context: Any, command: Any) -> str:
    usage = " ".join(["easel", command.name, *command.collect_usage_pieces(context)])
    rows = "".join(f"| {name} | {meaning} |\n" for name, meaning in _list_parameters(context, command))
    return f"\n## {command.name}\n\n{_in_a_line(command.help)}\n\n```\n{usage}\n```\n\n| | |\n| --- | --- |\n{rows}"


def _list_parameters(context: Any, command: Any) -> Iterator[tuple[str, str]]:
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            yield f"`{parameter.metavar or parameter.name}`", _in_a_line(parameter.help)
            continue
        names, meaning = parameter.get_help_record(context)
        yield f"`{_escape(names)}`", _escape(_in_a_line(meaning))


def _in_a_line(text: str | None) -> str:
    return re.sub(r"\s+", " ", text or "").strip()


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    """Write the page, or compare it. Exits with 1 where it is out of date."""
    page = build_page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page)
    elif not PAGE.exists() or PAGE.read_text() != page:
        sys.exit("docs/cli-reference.md isn't what the commands say: run scripts/write_cli_reference.py")


if __name__ == "__main__":
    main()
