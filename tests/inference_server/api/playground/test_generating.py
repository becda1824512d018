"""The playground in a real Chromium: ordering images, and what may go wrong with it."""

import re
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.inference_server.api.playground.page import (
    DESKTOP,
    FORGET_IMAGES,
    KEY,
    await_image,
    button,
    field,
    order,
    prediction,
    run_elsewhere,
    serve,
    stored,
)
from tests.inference_server.api.serving import RunningGateway
from tests.support.browser import open_page

pytestmark = pytest.mark.browser


def test_an_image_is_generated_while_its_progress_and_a_preview_are_shown(page: Page, url: str):
    expect(page.locator("#model")).to_have_text("test-model")
    expect(page.get_by_text("synthetic engine")).to_be_visible()
    order(page, "a lighthouse", steps=30)
    expect(page.locator("#progress-text")).to_have_text(re.compile(r"Step \d+ of 30 · about \d+ s left"))
    expect(page.get_by_role("progressbar")).to_have_attribute("max", "30")
    expect(page.get_by_alt_text("Unfinished image")).to_be_visible()
    assert page.evaluate("document.querySelector('#canvas img').naturalWidth") > 0
    await_image(page, "a lighthouse")
    assert page.evaluate("document.querySelector('#canvas img').naturalWidth") == 512
    expect(page.locator("#announcement")).to_have_text(re.compile(r"Finished: 1 image, seed \d+"))
    expect(page.get_by_role("progressbar")).to_be_hidden()
    (entry,) = stored(page)
    assert str(prediction(url, entry["id"])["input"]["seed"]) == entry["input"]["seed"]


def test_what_was_not_done_as_asked_is_said_beside_the_image(page: Page):
    order(page, "a [lighthouse:tower:0.5] at night", steps=1)
    await_image(page, "a [lighthouse:tower:0.5] at night")
    expect(page.locator("#facts").get_by_text("[lighthouse:tower:0.5]")).to_be_visible()


def test_a_job_that_waits_shows_its_place_in_the_queue(page: Page, url: str):
    others = [run_elsewhere(url, steps=100), run_elsewhere(url, steps=100)]
    order(page, "a long wait", steps=2)
    expect(page.locator("#progress-text")).to_have_text(
        re.compile(r"Number 2 in the queue · 1 ahead · about \d+ (s|min) left")
    )
    expect(page.locator("#announcement")).to_contain_text("1 ahead")
    for other in others:
        httpx2.post(f"{url}/v1/predictions/{other}/cancel")
    await_image(page, "a long wait")


def test_cancel_ends_the_job_and_leads_back_to_the_form(page: Page, url: str):
    order(page, "never mind", steps=100)
    expect(page.locator("#progress-text")).to_contain_text("Step")
    button(page, "Cancel").click()
    expect(page.locator("#canvas")).to_have_text("Cancelled.")
    expect(button(page, "Generate")).to_be_focused()
    (entry,) = stored(page)
    assert prediction(url, entry["id"])["status"] == entry["status"] == "canceled"


@pytest.mark.parametrize(
    ("label", "value", "message"),
    [
        ("Width", "4000", "Width is 4000 pixels, allowed is a multiple of 8 from 64 to 2048"),
        ("Height", "100", "Height is 100 pixels, allowed is a multiple of 8 from 64 to 2048"),
        ("Steps", "101", "Steps is 101, allowed are 1 to 100"),
        ("Images", "0", "Images is 0, allowed are 1 to 4"),
        ("Seed", "-1", "Seed is -1, allowed are 0 to 9223372036854775807"),
        ("Seed", "lucky", 'Seed is "lucky", which is no whole number'),
    ],
)
def test_an_error_is_shown_beside_the_field_that_it_concerns(page: Page, label, value, message):
    field(page, "Prompt").fill("a boat")
    field(page, label).fill(value)
    button(page, "Generate").click()
    control = field(page, label)
    expect(control).to_be_focused()
    expect(control).to_have_attribute("aria-invalid", "true")
    expect(control).to_have_accessible_description(re.compile(re.escape(message)))
    expect(page.get_by_text(message)).to_be_visible()
    control.fill("64")
    expect(control).not_to_have_attribute("aria-invalid", "true")
    assert stored(page) == []


def test_several_requests_are_followed_one_after_another_and_each_is_another_image(page: Page, url: str):
    field(page, "Seed").fill("7")
    field(page, "Images").fill("2")
    field(page, "Requests").fill("3")
    order(page, "a batch", steps=20)
    expect(page.locator("#progress-text")).to_have_text(re.compile(r"Request 1 of 3 · Step \d+ of 20"))
    expect(page.locator("#progress-text")).to_have_text(re.compile("Request 3 of 3"))
    await_image(page, "Image 2 of 2: a batch")
    expect(page.locator("#announcement")).to_have_text("Finished: 2 images, seed 11")
    assert [entry["input"]["seed"] for entry in stored(page)] == ["11", "9", "7"]


def test_cancel_ends_all_requests_that_are_not_over(page: Page, url: str):
    field(page, "Requests").fill("3")
    order(page, "never mind", steps=100)
    expect(page.locator("#progress-text")).to_contain_text("Step")
    button(page, "Cancel").click()
    expect(page.locator("#canvas")).to_have_text("Cancelled.")
    expect(page.get_by_role("list").get_by_role("button", name="never mind Cancelled")).to_have_count(3)
    assert {prediction(url, entry["id"])["status"] for entry in stored(page)} == {"canceled"}


def test_too_many_requests_are_refused_beside_their_field(page: Page):
    field(page, "Requests").fill("21")
    order(page, "a flood", steps=1)
    expect(page.get_by_text("Requests is 21, allowed are 1 to 20")).to_be_visible()
    assert stored(page) == []


def test_an_empty_prompt_is_refused_beside_it(page: Page):
    button(page, "Generate").click()
    expect(field(page, "Prompt")).to_be_focused()
    expect(page.get_by_text("Prompt has 0 characters, allowed are 1 to 4000")).to_be_visible()


def test_a_job_that_fails_says_why(browser: Browser, gateway: RunningGateway):
    with open_page(browser, gateway.url, **DESKTOP) as page:
        order(page, "fail", steps=1)
        expect(page.get_by_role("alert").filter(has_text="the model refused the request: no")).to_be_visible()
        expect(page.get_by_role("list").get_by_role("button", name="fail Failed")).to_be_visible()
        assert button(page, "Generate").get_attribute("aria-disabled") is None


def test_an_image_that_the_service_has_is_there_at_once(page: Page):
    field(page, "Seed").fill("7")
    for count in (1, 2):
        order(page, "known", steps=3)
        # Before the image, which may still be the first one's.
        expect(page.get_by_role("list").get_by_role("button", name="known Seed 7")).to_have_count(count)
        await_image(page, "known")
    first, second = stored(page)
    assert first["id"] != second["id"]
    expect(page.locator("#announcement")).to_have_text("Finished: 1 image, seed 7")


def test_an_image_that_the_service_has_forgotten_can_be_generated_again(page: Page):
    order(page, "fleeting", steps=1)
    await_image(page, "fleeting")
    seed = stored(page)[0]["input"]["seed"]
    page.evaluate(FORGET_IMAGES)
    page.route("**/output/0", lambda route: route.fulfill(status=404, json={"detail": "its result has expired"}))
    page.reload()
    page.get_by_role("list").get_by_role("button", name=f"fleeting Seed {seed}").click()
    expect(page.locator("#canvas")).to_contain_text("The service has forgotten this image")
    page.unroute("**/output/0")
    expect(field(page, "Seed")).to_have_value(seed)
    button(page, "Generate").click()
    await_image(page, "fleeting")


def test_a_service_that_is_away_is_said_so_and_the_next_attempt_goes_through(page: Page):
    page.route("**/v1/predictions", lambda route: route.abort())
    order(page, "hello", steps=1)
    expect(page.get_by_role("alert").filter(has_text="be reached")).to_be_visible()
    page.unroute("**/v1/predictions")
    button(page, "Generate").click()
    await_image(page, "hello")
    expect(page.get_by_role("alert").filter(has_text="be reached")).to_be_hidden()


def test_a_stream_that_breaks_is_taken_up_again(page: Page):
    breaks = 2

    def break_or_go_on(route: Any) -> None:
        nonlocal breaks
        breaks -= 1
        route.abort() if breaks >= 0 else route.continue_()

    page.route("**/stream?progress=true", break_or_go_on)
    order(page, "steady", steps=5)
    await_image(page, "steady")
    assert breaks < 0


def test_a_key_is_asked_for_sent_as_a_header_and_kept_in_the_tab_only(browser: Browser, tmp_path):
    (tmp_path / "alice").write_text(KEY)
    with serve(api_keys_directory=str(tmp_path)) as url, open_page(browser, url, **DESKTOP) as page:
        addresses: list[str] = []
        page.on("request", lambda request: addresses.append(request.url))
        order(page, "mine", steps=1)
        expect(field(page, "API key")).to_be_focused()
        expect(field(page, "API key")).to_have_accessible_description(re.compile("Enter an API key"))
        field(page, "API key").fill("wrong")
        button(page, "Generate").click()
        expect(page.get_by_text("The API key is not known")).to_be_visible()
        expect(field(page, "API key")).to_have_attribute("type", "password")
        field(page, "API key").fill(KEY)
        button(page, "Generate").click()
        await_image(page, "mine")
        page.reload()
        page.wait_for_selector("html[data-ready]")
        expect(field(page, "API key")).to_have_value(KEY)
        assert KEY not in str(page.evaluate("JSON.stringify(localStorage)")) + page.url + "".join(addresses)
        button(page, "Forget").click()
        expect(field(page, "API key")).to_have_value("")
        assert page.evaluate("JSON.stringify(sessionStorage)") == "{}"
