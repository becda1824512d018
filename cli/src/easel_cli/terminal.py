"""Where commands write: colours and live tables on a terminal, plain lines elsewhere and with ``NO_COLOR``."""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any, Final

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

PLAIN_WIDTH: Final = 10_000  # nothing is cut or wrapped where a program may read it


def build_console(*, is_error: bool = False) -> Console:
    """Standard output, or standard error. Markup in what services say is never read."""
    stream = sys.stderr if is_error else sys.stdout
    width = None if stream.isatty() else PLAIN_WIDTH
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def print_json(data: object) -> None:
    """For programs."""
    sys.stdout.write(json.dumps(data, indent=2, default=str, ensure_ascii=False) + "\n")


def build_table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]], *, wrapped: str = "") -> Table:
    """As kubectl's: no lines, one blank column between. ``wrapped``: the column that may take several lines."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column != wrapped)
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return table


def show(console: Console, content: RenderableType) -> None:
    """Print it; where a program may read, without the blanks that fill a table's last column."""
    if console.is_terminal:
        console.print(content)
        return
    with console.capture() as captured:
        console.print(content)
    console.file.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def describe_seconds(seconds: float) -> str:
    """As kubectl shows ages: 45s, 12m, 3h, 5d."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"


def as_record(value: Any) -> Any:
    """Dataclasses, and what is in them, as JSON has them."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return [as_record(each) for each in value] if isinstance(value, list | tuple) else value
