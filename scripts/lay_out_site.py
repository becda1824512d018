"""Lays out what the site is built from (``make docs``): the pages, and every file of the repository that they link to.

They lie below ``.state/site-source`` as they do in the repository, so that a link leads to the same on a forge and in
the site. MkDocs can't take the repository itself: it would publish all of it. ``mkdocs.yml`` names this file as a hook,
so that ``make docs-serve`` follows a change; any other builder needs nothing but the folder.
"""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / ".state/site-source"
PAGES = ("*.md", "docs/**/*.md", "*/README.md", "helm/easel/README.md")
DECISIONS = Path("docs/decisions")
LINK = re.compile(r"\]\((?!https?://|mailto:|#)([^)#\s]+)(?:#[^)\s]*)?\)")
MAX_FILE_BYTES = 4 << 20


def list_pages() -> list[Path]:
    """The pages of the site, relative to the repository."""
    found = {page.relative_to(ROOT) for pattern in PAGES for page in ROOT.glob(pattern)}
    return sorted(page for page in found if not page.parts[0].startswith("."))


def list_links(page: Path) -> list[Path]:
    """What a page links to in the repository, relative to it.

    Raises:
        ValueError: A link leads nowhere, out of the repository, to a folder, or to more than a page may link to.
    """
    targets = []
    for link in LINK.findall(_without_code((ROOT / page).read_text())):
        target = (ROOT / page.parent / link).resolve()
        if not target.is_relative_to(ROOT) or not target.is_file():
            raise ValueError(
                f"{page} links to {link}, which isn't a file of the repository: name one, such as its README.md"
            )
        if target.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"{page} links to {link} of {target.stat().st_size} bytes; {MAX_FILE_BYTES} are allowed")
        targets.append(target.relative_to(ROOT))
    return targets


def _without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)


def render(page: Path) -> str:
    """A page as the site has it: the index of decisions lists them, newest first; all others are as they are."""
    text = (ROOT / page).read_text()
    if page != DECISIONS / "README.md":
        return text
    return text + "\n" + "".join(f"- {line}\n" for line in _list_decisions())


def _list_decisions() -> Iterator[str]:
    for file in sorted((ROOT / DECISIONS).glob("2*.md"), reverse=True):
        title = file.read_text().partition("\n")[0].lstrip("# ")
        yield f"{file.name[:10]}: [{title}]({file.name})"


def lay_out() -> None:
    """Write the folder anew, leaving files that are right as they are: a server that watches it would never rest."""
    pages = list_pages()
    texts = {page: render(page).encode() for page in pages}
    linked = {target for page in pages for target in list_links(page)} - texts.keys()
    wanted = texts | {target: (ROOT / target).read_bytes() for target in linked}
    for file in [file for file in SOURCE.rglob("*") if file.is_file()]:
        if file.relative_to(SOURCE) not in wanted:
            file.unlink()
    for path, content in wanted.items():
        file = SOURCE / path
        if not file.exists() or file.read_bytes() != content:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)


def on_pre_build(config: object) -> None:
    """MkDocs' hook before each build."""
    del config
    lay_out()


if __name__ == "__main__":
    lay_out()
