"""The glossary is followed: names in the source and pages for people don't use the words that it rules out."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("contract/src", "operator/src", "inference_server/src", "cli/src", "demo", "chaos")

# The word that is used instead is in docs/glossary.md.
FORBIDDEN_WORDS = {
    *("bell", "bells", "ring", "rings", "lane", "lanes", "outlook", "companion", "companions"),
    *("draw", "draws", "drawn", "drawing", "picture", "pictures", "painter"),
    *("dear", "reckon", "kin", "staff", "tab", "tabs", "patience", "verdict"),
    *("told", "tell", "findings", "broker"),
}
OF_BROWSERS = {"tab", "tabs"}
LONG_BOUNDS = ("MAXIMUM_", "MINIMUM_", "LONGEST_", "LARGEST_", "MOST_")  # of constants: they begin with MAX_ or MIN_
# Names that users scrape or that are stored, and words that mean themselves.
ALLOWED_NAMES = {
    "lateness_margin_percent",
    "BROKER_UP",
    "broker_up",
    "is_broker_up",
    "_is_broker_up",
    "KeyRing",
    "drawn_at",
    "LONGEST_JOB_SECONDS",
}
PAGES = (
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "*/README.md",
    "docs/*.md",
    "docs/[!d]*/*.md",  # all but docs/decisions and docs/developers
    "docs/developers/*.md",
    "helm/**/NOTES.txt",
)
UNPLAIN = re.compile(r"\b(pictures?|drawn|draws|redrawn|hand(ed|s)? back|give[ns]? up|given up)\b", re.IGNORECASE)
STRANGERS_PACKAGE = re.compile(r"(pip|uv|pipx|uvx)\s+(install\s+|run\s+)?['\"]?easel(?![\w-])")


def names_in(file: Path) -> Iterator[tuple[int, str]]:
    """Names that a file itself gives: of functions, classes, arguments, variables and attributes."""
    for node in ast.walk(ast.parse(file.read_text())):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.lineno, node.name
            case ast.arg():
                yield node.lineno, node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.lineno, node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.lineno, node.attr


def words_of(name: str) -> set[str]:
    """``startDrawing`` and ``start_drawing`` are start and drawing."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def python_files() -> list[Path]:
    return [file for folder in SOURCES for file in sorted((ROOT / folder).rglob("*.py"))]


def test_a_name_is_taken_apart_into_its_words() -> None:
    assert words_of("MAXIMUM_PictureHTTPBytes_v2") == {"maximum", "picture", "http", "bytes", "v"}


def test_no_name_in_the_source_uses_a_word_that_the_glossary_rules_out() -> None:
    faults = [
        f"{file.relative_to(ROOT)}:{line}: {name}"
        for file in python_files()
        for line, name in names_in(file)
        if name not in ALLOWED_NAMES
        if words_of(name) & FORBIDDEN_WORDS or name.lstrip("_").startswith(LONG_BOUNDS)
    ]
    assert faults == []


def test_no_file_is_named_by_such_a_word() -> None:
    faults = [str(file.relative_to(ROOT)) for file in python_files() if words_of(file.stem) & FORBIDDEN_WORDS]
    assert faults == []


def test_tests_are_named_in_the_glossarys_words_too() -> None:
    """Files and what they test; what a test calls its variables is its own affair."""
    faults = []
    for file in sorted((ROOT / "tests").rglob("*.py")):
        names = [file.stem, *(name for _, name in names_in(file) if name.startswith("test_"))]
        faults += [
            f"{file.relative_to(ROOT)}: {name}" for name in names if words_of(name) & (FORBIDDEN_WORDS - OF_BROWSERS)
        ]
    assert faults == []


def pages() -> list[Path]:
    found = sorted({page for pattern in PAGES for page in ROOT.glob(pattern)})
    assert len(found) > 10, "this test would hold for nothing"
    return found


def test_pages_for_people_use_the_glossarys_words() -> None:
    """But for the glossary itself, and for blocks of code, which show what was printed."""
    faults = []
    for page in pages():
        text = re.sub(r"```.*?```", lambda block: "\n" * block.group().count("\n"), page.read_text(), flags=re.DOTALL)
        text = re.sub(r"`[^`\n]*`", "", text)
        for number, line in enumerate(text.splitlines(), start=1):
            if page.name != "glossary.md" and (found := UNPLAIN.search(line)):
                faults.append(f"{page.relative_to(ROOT)}:{number}: {found.group()}")
    assert faults == []


@pytest.mark.parametrize("command", ["pip install easel", "pip install 'easel[simulate]'", "uvx easel"])
def test_the_strangers_package_is_recognised(command: str) -> None:
    assert STRANGERS_PACKAGE.search(command)
    assert not STRANGERS_PACKAGE.search("pip install 'easel-serving[simulate]'")


def test_nobody_is_asked_to_install_the_strangers_package() -> None:
    """The name on the package index that looks like ours isn't: see docs/decisions."""
    texts = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md"), *python_files()]
    assert [str(file.relative_to(ROOT)) for file in texts if STRANGERS_PACKAGE.search(file.read_text())] == []


def test_what_a_page_links_to_exists() -> None:
    link = re.compile(r"\]\((?!https?://)([^)#\s]+)(?:#[^)]*)?\)")
    faults = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages()
        for target in link.findall(page.read_text())
        if not (page.parent / target).exists()
    ]
    assert faults == []
