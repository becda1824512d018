"""What the playground remembers, over reloads, in several tabs and in a storage that is full."""

import pytest
from playwright.sync_api import Page, Route, expect

from tests.inference_server.api.playground.page import BEYOND_DOUBLE, await_image, button, field, order, stored

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


def test_the_history_is_bounded_and_outlives_a_full_or_broken_storage(page: Page):
    page.evaluate("""() => {
        const input = { prompt: "old", seed: "1" };
        const entries = Array.from({ length: 50 }, (_, index) => ({ id: `old-${index}`, status: "succeeded", input }));
        localStorage.setItem("easel.history.1", JSON.stringify(entries));
    }""")
    page.evaluate("localStorage.setItem('other', 'x'.repeat(5_100_000 - localStorage['easel.history.1'].length))")
    page.reload()
    order(page, "the newest", steps=1)
    await_image(page, "the newest")
    # The image may be seen before the page has made room for it in its storage.
    page.wait_for_function("""() => {
        const entries = JSON.parse(localStorage.getItem("easel.history.1"));
        return entries.length === 24 && entries[0].input.prompt === "the newest";
    }""")
    page.evaluate("localStorage.setItem('easel.history.1', '{not json')")
    page.reload()
    order(page, "after all", steps=1)
    await_image(page, "after all")


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
