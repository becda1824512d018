"""The commands that pages show, Python's too: where each block is, and in which setting it can be carried out.

A block's setting follows from its programs. A page says otherwise in a comment right before it, which no reader sees:
``<!-- run: SETTING -->``, or ``<!-- not run: REASON -->`` where nothing here can.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from textwrap import dedent

from scripts.lay_out_site import list_pages

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = {"", "sh", "bash", "shell", "console", "python"}
FENCE = re.compile(
    r"^ *(?:<!-- (?P<how>run|not run): (?P<what>[^\n]+?) -->\n+ *)?```(?P<language>\w*)\n(?P<text>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
# Not pages for readers who type: what was, and why; and what each command's usage is.
LEFT_OUT = ("CHANGELOG.md", "docs/decisions/", "docs/cli-reference.md")


class Setting(StrEnum):
    """Where a block is carried out."""

    API = "api"  # curl, against a server with tiny models: test_api_commands.py
    CLUSTER = "cluster"  # kubectl and helm, read by them without a cluster: test_cluster_commands.py
    LAPTOP = "laptop"  # programs of the repository, as processes: test_laptop_commands.py
    PYTHON = "python"  # against the server of the API, in test_api_commands.py
    EASEL = "easel"  # commands of the command line: read, not run, in test_blocks.py; tests/cli types them
    MAKE = "make"  # a target of the Makefile: looked for, not made, in test_blocks.py


PROGRAMS = {
    Setting.API: re.compile(r"^curl ", re.MULTILINE),
    Setting.CLUSTER: re.compile(r"^(\w+=\$\()?(kubectl|helm) ", re.MULTILINE),
    Setting.EASEL: re.compile(r"^(\$ )?easel ", re.MULTILINE),
    Setting.MAKE: re.compile(r"\A(\s*(#.*|([A-Z_]+=\S+ )?make .*)\n)+\Z"),
}
# Programs that make something of a machine: never by their being beside others.
NEVER_BESIDE_OTHERS = re.compile(r"^(sudo |kind |podman |docker |make |scripts/)", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of shell commands.

    ``setting`` is None where nothing here can carry it out, and ``reason`` says why; ``fault`` is what its page has to
    mend, if anything.
    """

    page: str
    line: int
    text: str
    setting: Setting | None = None
    reason: str = ""
    fault: str = ""

    @property
    def place(self) -> str:
        """As an editor opens it."""
        return f"{self.page}:{self.line}"


def read_blocks(page: str, text: str) -> Iterator[Block]:
    """The shell blocks of a page."""
    for found in FENCE.finditer(text):
        if found["language"] in LANGUAGES:
            line = text[: found.start("language")].count("\n") + 1
            yield _read_block(page, line, dedent(found["text"]), found["how"], found["what"])


def _read_block(page: str, line: int, commands: str, how: str | None, what: str) -> Block:
    allowed = f"<!-- run: SETTING --> ({', '.join(Setting)}) or <!-- not run: REASON -->"
    if how == "not run":
        return Block(page, line, commands, reason=what)
    if how == "run":
        if what in set(Setting):
            return Block(page, line, commands, Setting(what))
        return Block(page, line, commands, fault=f"there is no setting {what}; before a block may stand {allowed}")
    settings = [setting for setting, pattern in PROGRAMS.items() if pattern.search(commands)]
    if len(settings) == 1 and (settings[0] == Setting.MAKE or not NEVER_BESIDE_OTHERS.search(commands)):
        return Block(page, line, commands, settings[0])
    seen = " and ".join(settings) or "none that is known by its programs"
    fault = f"in which setting these commands run isn't plain ({seen}): write {allowed} before them, or ```text"
    return Block(page, line, commands, fault=fault)


def list_blocks() -> list[Block]:
    """Of all pages, in the order of pages and lines."""
    pages = [page for page in map(str, list_pages()) if not page.startswith(LEFT_OUT)]
    return [block for page in pages for block in read_blocks(page, (ROOT / page).read_text())]


def group_by_page(setting: Setting) -> dict[str, list[Block]]:
    """The blocks of a setting, by page, as they follow one another there."""
    found: dict[str, list[Block]] = {}
    for block in list_blocks():
        if block.setting == setting:
            found.setdefault(block.page, []).append(block)
    return found
