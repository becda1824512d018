"""The API's description for browsers needs nothing but the gateway."""

import re
from collections.abc import Iterator

import httpx2
import pytest
from playwright.sync_api import Browser, expect

from tests.inference_server.api.serving import RunningGateway
from tests.support.browser import launch_chromium, open_page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launch_chromium() as chromium:
        yield chromium


@pytest.mark.browser
def test_the_description_is_shown_and_can_be_tried_without_asking_another_host(
    browser: Browser, shared_gateway: RunningGateway
) -> None:
    with open_page(browser, f"{shared_gateway.url}/docs") as page:
        operation = page.locator(".opblock", has_text="/v1/predictions/{prediction_id}/cancel")
        expect(operation.first).to_be_visible()
        models = page.locator("#operations-OpenAI_models-list_models_v1_models_get")
        models.locator(".opblock-summary").click()
        models.get_by_role("button", name="Try it out").click()
        models.get_by_role("button", name="Execute").click()
        expect(models.locator(".live-responses-table .response-col_status").last).to_contain_text("200")


def test_the_page_and_all_that_it_names_come_from_the_gateway(client: httpx2.Client) -> None:
    page = client.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    named = re.findall(r'(?:href|src)="([^"]+)"', page.text)
    assert named
    for address in named:
        assert ":" not in address
        answer = client.get(address)
        assert answer.status_code == 200
        assert answer.content
    assert "script-src 'self';" in page.headers["content-security-policy"]
    assert client.get("/docs", headers={"If-None-Match": page.headers["etag"]}).status_code == 304
    for missing in ("index.html", "nothing.js", "redoc.standalone.js"):
        assert client.get(f"/docs/{missing}").status_code == 404
