"""The playground's gallery: over reloads, in several tabs, and in browsers that keep nothing."""

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.inference_server.api.playground.page import (
    BEYOND_DOUBLE,
    DESKTOP,
    await_image,
    await_kept,
    button,
    field,
    order,
    stored,
)
from tests.support.browser import open_page

pytestmark = pytest.mark.browser


def test_the_history_survives_a_reload_and_its_settings_can_be_used_again(page: Page):
    field(page, "Seed").fill(BEYOND_DOUBLE)
    field(page, "Width").fill("128")
    field(page, "Negative prompt").fill("fog")
    field(page, "Sampler").select_option("Euler a")
    order(page, "a harbour", steps=2)
    await_image(page, "a harbour")
    expect(page.locator("#history img")).to_be_visible()
    page.reload()
    page.wait_for_selector("html[data-ready]")
    expect(field(page, "Seed")).to_have_value("")
    page.get_by_role("list").get_by_role("button", name=f"a harbour Seed {BEYOND_DOUBLE}").click()
    await_image(page, "a harbour")
    button(page, "Use these settings").click()
    expect(field(page, "Prompt")).to_be_focused()
    for label, value in {
        "Prompt": "a harbour",
        "Negative prompt": "fog",
        "Seed": BEYOND_DOUBLE,
        "Width": "128",
        "Height": "512",
        "Steps": "2",
        "Sampler": "Euler a",
    }.items():
        expect(field(page, label)).to_have_value(value)
    button(page, "Clear").click()
    assert stored(page) == []


def test_the_gallery_is_bounded_and_takes_over_what_pages_before_it_kept(page: Page):
    page.evaluate("""() => {
        const input = { prompt: "old", seed: "1" };
        const entries = Array.from({ length: 200 }, (_, index) => ({ id: `old-${index}`, status: "succeeded", input }));
        localStorage.setItem("easel.history.1", JSON.stringify(entries));
    }""")
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert [entry["id"] for entry in stored(page)][:2] == ["old-0", "old-1"]
    assert page.evaluate("localStorage.length") == 0
    order(page, "the newest", steps=1)
    await_image(page, "the newest")
    expect(page.get_by_text("100 of at most 100, 0.0 of at most 200 MiB")).to_be_visible()
    assert [entry["input"]["prompt"] for entry in stored(page)] == ["the newest", *["old"] * 99]


def test_images_are_there_after_a_reload_though_the_service_has_forgotten_them(page: Page):
    order(page, "kept", steps=1)
    await_image(page, "kept")
    expect(page.locator("#history img")).to_be_visible()
    await_kept(page)
    page.route("**/output/0", lambda route: route.abort())
    page.reload()
    page.get_by_role("list").get_by_role("button", name="kept Seed").click()
    await_image(page, "kept")
    assert page.evaluate("document.querySelector('#canvas img').naturalWidth") == 512


def test_one_is_deleted_and_the_focus_goes_on_to_the_next(page: Page):
    for prompt in ("first", "second", "third"):
        order(page, prompt, steps=1)
        await_image(page, prompt)
    button(page, "Delete second").press("Enter")
    expect(button(page, "Delete first")).to_be_focused()
    assert [entry["input"]["prompt"] for entry in stored(page)] == ["third", "first"]
    page.reload()
    expect(button(page, "Delete third")).to_be_visible()
    expect(button(page, "Delete second")).to_have_count(0)


REFUSALS = {
    "no database": "Object.defineProperty(globalThis, 'indexedDB', { value: undefined })",
    "storage is full": """IDBObjectStore.prototype.put = () => {
        throw new DOMException("no room", "QuotaExceededError");
    }""",
}


@pytest.mark.parametrize("reason", REFUSALS)
def test_a_browser_that_keeps_nothing_is_said_and_costs_no_image(browser: Browser, url: str, reason):
    with open_page(browser, url, **DESKTOP) as page:
        page.add_init_script(REFUSALS[reason])
        page.reload()
        page.wait_for_selector("html[data-ready]")
        for prompt in ("here for now", "and this"):
            order(page, prompt, steps=1)
            await_image(page, prompt)
        notice = page.get_by_role("alert").filter(has_text="keep what is generated here")
        expect(notice).to_contain_text(reason)
        page.get_by_role("list").get_by_role("button", name="here for now Seed").click()
        await_image(page, "here for now")


def test_what_is_typed_while_the_page_still_loads_is_kept_and_generated(page: Page):
    held: list[Route] = []

    def hold(route: Route) -> None:  # Playwright marks its handlers, which a built-in method can't bear
        held.append(route)

    page.route("**/playground/config", hold)
    with page.expect_request("**/playground/config"):
        page.reload(wait_until="commit")
    field(page, "Prompt").fill("in a hurry")
    field(page, "Steps").fill("1")
    with page.expect_response("**/playground/config"):
        held[0].continue_()
    page.wait_for_selector("html[data-ready]")
    expect(field(page, "Prompt")).to_have_value("in a hurry")
    expect(field(page, "Width")).to_have_value("512")
    button(page, "Generate").click()
    await_image(page, "in a hurry")
    assert stored(page)[0]["input"]["num_inference_steps"] == 1


def test_two_tabs_share_one_history(page: Page, url: str):
    other = page.context.new_page()
    other.goto(url)
    other.wait_for_selector("html[data-ready]")
    for tab, prompt in ((page, "here"), (other, "there"), (page, "here again")):
        order(tab, prompt, steps=1)
        await_image(tab, prompt)
    for tab in (page, other):
        expect(tab.locator("#history img")).to_have_count(3)
    button(other, "Clear").click()
    expect(page.locator("#history").get_by_role("button")).to_have_count(0)


def test_a_job_goes_on_over_a_reload(page: Page):
    order(page, "slowly", steps=40)
    expect(page.locator("#progress-text")).to_contain_text("Step")
    page.reload()
    expect(page.locator("#progress-text")).to_contain_text("Step")
    await_image(page, "slowly")
    assert len(stored(page)) == 1


def test_several_images_have_a_seed_and_a_download_each(page: Page):
    field(page, "Seed").fill("41")
    field(page, "Images").fill("3")
    order(page, "boats", steps=1)
    expect(page.get_by_role("img", name="Image 3 of 3: boats")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download image 2").click()
    assert download.value.suggested_filename == "easel-42.png"
    field(page, "Seed").fill("")
    button(page, "Use this seed").click()
    expect(field(page, "Seed")).to_have_value("41")
