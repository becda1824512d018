"""Every command of every page has a setting that carries it out, or says why none does."""

import itertools
import re
import shlex

import pytest
from easel_cli.main import app
from typer.core import TyperGroup
from typer.main import get_command

from tests.docs.blocks import ROOT, Block, Setting, list_blocks, read_blocks

SHELLS_OWN = {"|", ">", "&"}
# Blocks that nothing here can carry out. Raise this only for what needs hardware, minutes or another's cluster.
MAX_NOT_RUN = 18
MAKE = re.compile(r"(?:[A-Z_]+=\S+ )*make ")


def test_every_block_of_commands_has_a_setting_or_says_why_not() -> None:
    assert [f"{block.place}: {block.fault}" for block in list_blocks() if block.fault] == []


def test_few_blocks_are_not_run() -> None:
    blocks = list_blocks()
    left_out = [block for block in blocks if block.setting is None and not block.fault]
    print(f"{len(blocks)} blocks of commands, {len(left_out)} of them not run:")  # noqa: T201  # shown by pytest -rP
    for block in left_out:
        print(f"  {block.place}: {block.reason}")  # noqa: T201
    assert len(blocks) > 40, "this test would hold for nothing"
    assert len(left_out) <= MAX_NOT_RUN
    assert all(len(block.reason) > 10 for block in left_out), "a reason says what is missing"


def test_every_target_of_make_that_a_page_names_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    lines = [(block.place, line) for block in list_blocks() for line in block.text.splitlines()]
    words = [(place, shlex.split(line, comments=True)) for place, line in lines if MAKE.match(line)]
    named = {(place, word) for place, each in words for word in each if word != "make" and "=" not in word}
    assert {word for _, word in named} >= {"setup", "demo"}
    assert [place for place in sorted(named) if place[1] not in targets] == []


def list_easel_commands() -> list[tuple[str, list[str]]]:
    """Each `easel …` of pages as words, up to where the shell takes its output; what begins with `$ ` was typed."""
    lines = [
        (block.place, line.removeprefix("$ "))
        for block in list_blocks()
        for line in block.text.replace("\\\n", " ").splitlines()
    ]
    words = [(place, shlex.split(line, comments=True)[1:]) for place, line in lines if line.startswith("easel ")]
    return [(place, list(itertools.takewhile(lambda word: word not in SHELLS_OWN, each))) for place, each in words]


def test_every_command_of_easel_that_a_page_shows_can_be_read() -> None:
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    shown = list_easel_commands()
    assert len(shown) > 5, "this test would hold for nothing"
    for place, words in shown:
        context = group.make_context("easel", list(words))
        name, command, rest = group.resolve_command(context, words)
        assert command is not None, f"{place}: there is no easel {words[0]}"
        command.make_context(name, rest, parent=context)  # an option that there isn't is a UsageError


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("```sh\nkubectl get pods\n```\n", Block("a.md", 1, "kubectl get pods\n", Setting.CLUSTER)),
        ("x\n\n```\ncurl $URL/v1/models\n```\n", Block("a.md", 3, "curl $URL/v1/models\n", Setting.API)),
        ("```sh\n# once\nA=b make setup  # c\n```\n", Block("a.md", 1, "# once\nA=b make setup  # c\n", Setting.MAKE)),
        ("<!-- run: laptop -->\n```sh\nls\n```\n", Block("a.md", 2, "ls\n", Setting.LAPTOP)),
        (
            "- a\n  <!-- not run: needs a GPU -->\n  ```sh\n  nvidia-smi\n  ```\n",
            Block("a.md", 3, "nvidia-smi\n", reason="needs a GPU"),
        ),
    ],
)
def test_a_block_is_read_with_its_setting(source: str, expected: Block) -> None:
    assert list(read_blocks("a.md", source)) == [expected]


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("```sh\nls\n```\n", "isn't plain (none that is known by its programs)"),
        ("```sh\nkubectl get pods\ncurl $URL\n```\n", "isn't plain (api and cluster)"),
        ("```sh\nkind create cluster\nkubectl get pods\n```\n", "isn't plain (cluster)"),
        ("<!-- run: moon -->\n```sh\nls\n```\n", "there is no setting moon"),
    ],
)
def test_a_block_without_a_setting_is_a_fault_of_its_page(source: str, fault: str) -> None:
    [block] = read_blocks("a.md", source)
    assert fault in block.fault
    assert "<!-- not run: REASON -->" in block.fault


def test_what_isnt_a_shells_is_left_out() -> None:
    assert list(read_blocks("a.md", "```yaml\na: 1\n```\n```text\nsaid\n```\n")) == []
