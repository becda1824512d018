"""The site as it is built: every page can be reached, and nothing is loaded from another host."""

import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest
from playwright.sync_api import expect

from scripts.lay_out_site import list_links, list_pages
from tests.support.browser import TIMEOUT_MILLISECONDS, launch_chromium

ROOT = Path(__file__).resolve().parents[2]
# What a browser loads by itself; `a` is left out: that is for people to click.
LOADED = {("link", "href"), *((tag, "src") for tag in ("script", "img", "iframe", "source", "video", "audio", "embed"))}
CSS_LOAD = re.compile(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)")
BUILD_SECONDS = 600
INDEX_MILLISECONDS = 120_000  # until the search has read its index, on a machine that is busy with other tests


class Page(HTMLParser):
    """What a page loads, and where it leads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.leads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if (tag, name) in LOADED and value:
                self.loads.append(value)
            elif (tag, name) == ("a", "href") and value:
                self.leads.append(value)
            elif name == "style" and value:
                self.loads += list_css_loads(value)


def list_css_loads(text: str) -> list[str]:
    return [first or second for first, second in CSS_LOAD.findall(text)]


def find_foreign(loads: list[str]) -> list[str]:
    return [load for load in loads if urlsplit(load).netloc]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``make docs`` builds it."""
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONWARNINGS": "default"}
    for command in (
        ["-m", "scripts.lay_out_site"],
        ["-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)],
    ):
        words = [sys.executable, *command]
        done = subprocess.run(
            words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > len(list_pages()) - 1
    foreign = {str(page.relative_to(site)): find_foreign(Page(page.read_text()).loads) for page in pages}
    foreign |= {str(sheet): find_foreign(list_css_loads(sheet.read_text())) for sheet in site.rglob("*.css")}
    assert {name: loads for name, loads in foreign.items() if loads} == {}


def test_a_load_from_another_host_is_found() -> None:
    page = Page(
        '<link href="//fonts.example/a.css"><img src=a.png><a href="https://b.example">b</a><p style="background:url(https://c.example/x)">'
    )
    assert find_foreign(page.loads) == ["//fonts.example/a.css", "https://c.example/x"]
    assert list_css_loads("@import 'https://d.example'; a {b: url(e.png)}") == ["https://d.example", "e.png"]


def test_every_page_can_be_reached_from_the_first(site: Path) -> None:
    seen: set[str] = set()
    waiting = ["index.html"]
    while waiting:
        name = waiting.pop()
        if name in seen or not name.endswith(".html") or not (site / name).is_file():
            continue
        seen.add(name)
        leads = [
            urljoin(name, urlsplit(lead).path)
            for lead in Page((site / name).read_text()).leads
            if not urlsplit(lead).netloc
        ]
        waiting += leads
    built = {str(page.relative_to(site)) for page in site.rglob("*.html")}
    assert built - seen == {"404.html"}


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        pass


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.browser
def test_the_search_finds_a_page_without_asking_another_host(site: Path) -> None:
    """What scripts load can't be read from their text; a browser shows it."""
    asked: set[str] = set()
    with serve(site) as url, launch_chromium() as browser, browser.new_context() as profile:
        page = profile.new_page()
        page.set_default_timeout(TIMEOUT_MILLISECONDS)
        page.on("request", lambda request: asked.add(urlsplit(request.url).netloc))
        page.goto(f"{url}/docs/platform/redis.html")
        page.locator("input.md-search__input").click()
        page.locator("input.md-search__input").type("sentinel")
        expect(page.locator(".md-search-result__item").first).to_contain_text("Sentinel", timeout=INDEX_MILLISECONDS)
    assert asked - {""} == {urlsplit(url).netloc}


def test_a_link_that_leads_nowhere_is_said_with_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "README.md").write_text("[a](docs/a.md) and `[b](b.md)`")
    monkeypatch.setattr("scripts.lay_out_site.ROOT", tmp_path)
    with pytest.raises(ValueError, match=r"README\.md links to docs/a\.md, which isn't a file of the repository"):
        list_links(Path("README.md"))


def test_the_page_of_the_http_apis_is_what_a_gateway_serves() -> None:
    words = [sys.executable, "scripts/write_http_apis.py", "--check"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
