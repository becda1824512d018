"""What pages of other sites try, in a real Chromium: the attacks themselves, not the headers that give them away."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Browser, Page

from tests.inference_server.api.serving import RunningGateway, wait_for
from tests.support.browser import launch_chromium

pytestmark = pytest.mark.browser

RESOLVER = "--host-resolver-rules=MAP *.example 127.0.0.1"
BODY = '{"prompt": "a cat", "seed": 5}'


class Blank(BaseHTTPRequestHandler):
    """A page with nothing on it."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<title>other</title>")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        pass


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launch_chromium(RESOLVER) as chromium:
        yield chromium


@pytest.fixture(scope="module")
def other_site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Blank)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://evil.example:{server.server_port}/"
    server.shutdown()
    server.server_close()


@contextmanager
def refused(gateway: RunningGateway, code: str) -> Iterator[None]:
    """A request is refused for this reason (a browser may ask for an icon besides), and no worker hears of any."""
    refusals, seen = gateway.metrics.counts["refusal", code], list(gateway.worker.seen)
    yield
    wait_for(lambda: gateway.metrics.counts["refusal", code] > refusals)
    assert gateway.worker.seen == seen


@pytest.fixture
def page(browser: Browser, other_site: str) -> Iterator[Page]:
    with browser.new_context() as profile:
        page = profile.new_page()
        page.goto(other_site)
        yield page


def test_a_script_that_needs_no_answer_generates_nothing(page: Page, gateway: RunningGateway) -> None:
    with refused(gateway, "origin_not_allowed"):
        page.evaluate(
            "([url, body]) => fetch(url, {method: 'POST', mode: 'no-cors', body}).then(answer => answer.type)",
            [f"{gateway.url}/v1/images/generations", BODY],
        )


def test_a_form_that_looks_like_json_generates_nothing(page: Page, gateway: RunningGateway) -> None:
    form = """([url]) => {
        const form = document.createElement('form');
        Object.assign(form, {method: 'POST', action: url, enctype: 'text/plain'});
        const field = Object.assign(document.createElement('input'), {name: '{"prompt": "a cat", "x": "', value: '"}'});
        form.append(field);
        document.body.append(form);
        form.submit();
    }"""
    with refused(gateway, "origin_not_allowed"), page.expect_navigation():
        page.evaluate(form, [f"{gateway.url}/v1/images/generations"])


def test_a_page_shows_no_image_of_the_service(page: Page, gateway: RunningGateway) -> None:
    with gateway.client() as client:
        body = {"input": {"prompt": "a cat"}}
        prediction = client.post("/v1/predictions", json=body, headers={"Prefer": "wait=20"}).json()
    with refused(gateway, "origin_not_allowed"):
        page.evaluate(
            "([url]) => new Promise(done => Object.assign(new Image(), {onerror: done, onload: done, src: url}))",
            prediction["output"],
        )


def test_a_name_that_was_rebound_to_this_machine_reads_nothing(browser: Browser, gateway: RunningGateway) -> None:
    rebound = gateway.url.replace("127.0.0.1", "evil.example")
    with browser.new_context() as profile:
        page = profile.new_page()
        with refused(gateway, "host_not_allowed"):
            answer = page.goto(f"{rebound}/v1/models")
        assert answer is not None
        assert answer.status == 403
        with refused(gateway, "host_not_allowed"):
            status = page.evaluate(
                "([path, body]) => fetch(path, {method: 'POST', body}).then(answer => answer.status)",
                ["/v1/images/generations", BODY],
            )
        assert status == 403
