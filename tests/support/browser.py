"""A real Chromium for tests of pages, by Playwright, and what such a page must never do."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, sync_playwright

# Of everything that a page waits for: a loaded machine with two cores is slow, a broken page is slower.
TIMEOUT_MILLISECONDS = 30_000
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]


@contextmanager
def launch_chromium(*arguments: str) -> Iterator[Browser]:
    """The system's Chromium, with arguments besides; Playwright's own would have to be downloaded."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert path, "no Chromium on PATH: install it (Debian: apt-get install chromium), or run `make setup`"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*ARGUMENTS, *arguments])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_page(browser: Browser, url: str, **context: Any) -> Iterator[Page]:
    """A page of its own profile. At its end no script has failed, no other host was asked, nothing was blocked."""
    faults: list[str] = []
    with browser.new_context(**context) as profile:
        profile.set_default_timeout(TIMEOUT_MILLISECONDS)
        page = profile.new_page()
        page.on("pageerror", lambda error: faults.append(f"script failed: {error}"))
        page.on("console", lambda line: _note_console(line.text, faults))
        page.on("request", lambda request: _note_request(request.url, url, faults))
        page.goto(url)
        page.wait_for_selector("html[data-ready]")
        yield page
        assert faults == []


def _note_console(text: str, faults: list[str]) -> None:
    if "Content Security Policy" in text or "Trusted" in text:
        faults.append(text)


def _note_request(address: str, page: str, faults: list[str]) -> None:
    parts = urlsplit(address)
    if parts.scheme not in {"blob", "data"} and parts.netloc != urlsplit(page).netloc:
        faults.append(f"asked another host: {address}")
