"""A server with the synthetic engine, and a real Chromium: one of each for all tests of the playground."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.inference_server.api.playground.page import DESKTOP, serve
from tests.support.browser import TIMEOUT_MILLISECONDS, launch_chromium, open_page

expect.set_options(timeout=TIMEOUT_MILLISECONDS)


@pytest.fixture(scope="package")
def url() -> Iterator[str]:
    with serve() as address:
        yield address


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with launch_chromium() as chromium:
        yield chromium


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    with open_page(browser, url, **DESKTOP) as opened:
        yield opened
