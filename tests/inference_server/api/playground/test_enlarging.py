"""A second pass and upscaling in the playground: asked for, followed, kept in the gallery, and what isn't allowed."""

import json
import re
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.inference_server.api.playground.page import (
    DESKTOP,
    FORGET_IMAGES,
    KEY,
    PHONE,
    await_image,
    await_kept,
    build_file,
    build_png,
    button,
    field,
    open_part,
    order,
    prediction,
    run_elsewhere,
    serve,
    stored,
)
from tests.support.browser import open_page

pytestmark = pytest.mark.browser

SIZE = "document.querySelector('#canvas img').naturalWidth"


def ask_for_second_pass(page: Page, **values: str) -> None:
    open_part(page, "Second pass")
    field(page, "Generate it larger in a second pass (hires fix)").check()
    for label, value in values.items():
        field(page, label.replace("_", " ")).fill(value)


def list_upscalers(page: Page, where: str) -> list[str]:
    return page.locator(f"{where} option").all_text_contents()


def make_small(page: Page) -> None:
    for side in ("Width", "Height"):
        field(page, side).fill("64")


def test_a_second_pass_is_asked_for_with_upscaler_scale_strength_and_steps(page: Page, url: str):
    make_small(page)
    ask_for_second_pass(page, Scale="1.5", Change_in_the_second_pass="0.5", Steps_of_the_second_pass="3")
    expect(page.locator("#hires-size")).to_contain_text(
        "The image has 96 \u00d7 96 pixels then; at most 2048 \u00d7 2048"
    )
    offered = list_upscalers(page, "#hires-upscaler")
    assert (offered[0], offered[-1], "Lanczos" in offered) == ("Latent", "sharp", True)
    page.locator("#hires-upscaler").select_option("sharp")
    order(page, "larger", steps=4)
    await_image(page, "larger")
    assert page.evaluate(SIZE) == 96
    (entry,) = stored(page)
    asked = {"width": 96, "height": 96, "upscaler": "sharp", "strength": 0.5, "steps": 3}
    assert prediction(url, entry["id"])["input"]["hires"] == asked
    expect(page.locator("#facts")).to_contain_text("sharp, from 64 \u00d7 64")
    expect(page.locator("#facts")).to_contain_text("96 \u00d7 96")
    page.reload()
    page.get_by_role("list").get_by_role("button", name="larger Seed").click()
    button(page, "Use these settings").click()
    expect(page.locator("#hires")).to_be_checked()
    for label, value in {"Scale": "1.5", "Change in the second pass": "0.5", "Steps of the second pass": "3"}.items():
        expect(field(page, label)).to_have_value(value)
    expect(page.locator("#hires-upscaler")).to_have_value("sharp")


@pytest.mark.parametrize(
    ("label", "value", "message"),
    [
        ("Scale", "8", "Second pass is 4096x4096 pixels, allowed are multiples of 8 to 2048x2048"),
        ("Steps of the second pass", "1000", "Second pass has 1000 steps, allowed are 1 to 100"),
        ("Change in the second pass", "2", "Second pass has a denoising strength of 2.0, allowed is more than 0 to 1"),
        ("Scale", "9", "Second pass, Scale Input should be less than or equal to 8"),
    ],
)
def test_what_a_second_pass_may_not_be_is_said_beside_it(page: Page, label, value, message):
    ask_for_second_pass(page, **{label.replace(" ", "_"): value})
    order(page, "too much", steps=4)
    expect(page.locator("#hires-error")).to_contain_text(message)
    assert page.evaluate("document.activeElement.closest('#part-hires') !== null")
    assert stored(page) == []


def test_a_size_that_would_be_refused_is_said_before_it_is_asked_for(browser: Browser):
    limits = {"max_hires_pixels": 600 * 600, "max_upscaled_pixels": 1 << 20}
    with serve(limits=limits) as url, open_page(browser, url, **DESKTOP) as page:
        ask_for_second_pass(page)
        hint = page.locator("#hires-size")
        size, bound = "1024 \u00d7 1024", "2048 \u00d7 2048 and 0.4 megapixels"
        expect(hint).to_have_text(f"Too large. The image has {size} pixels then; at most {bound} are allowed.")
        field(page, "Scale").fill("1.1")
        expect(hint).to_contain_text("The image has 560 \u00d7 560 pixels then")
        expect(hint).not_to_contain_text("Too large")
        field(page, "Generate it larger in a second pass (hires fix)").uncheck()
        order(page, "small", steps=1)
        await_image(page, "small")
        expect(page.locator("#upscaling-size")).to_contain_text("It has 1024 \u00d7 1024 pixels then")
        field(page, "Upscale by").fill("3")
        expect(page.locator("#upscaling-size")).to_have_text(
            "Too large. It has 1536 \u00d7 1536 pixels then; at most 1.0 megapixels and 8192 pixels a side are allowed."
        )
        button(page, "Upscale").click()
        expect(page.get_by_role("alert").filter(has_text="Upscale by: asks for 1536x1536 pixels")).to_be_visible()
        expect(field(page, "Upscale by")).to_be_focused()
        expect(field(page, "Upscale by")).to_have_attribute("aria-invalid", "true")
        await_image(page, "small")  # what there was is still there
        assert len(stored(page)) == 1


def test_a_second_pass_beside_an_input_image_is_said_to_be_none(page: Page):
    ask_for_second_pass(page)
    open_part(page, "Input image")
    page.get_by_label("Input image", exact=True).set_input_files(build_file("boat.png", build_png(64, 64)))
    expect(page.locator("#hires-size")).to_contain_text("for images from a text alone: remove the input image")
    button(page, "Remove: Input image").click()
    expect(page.locator("#hires-size")).to_contain_text(re.compile("^The image has"))
    field(page, "Width").fill("2048")
    field(page, "Height").fill("64")
    expect(page.locator("#hires-size")).to_contain_text("Too large. The image has 4096 \u00d7 128 pixels then")


def upscale(page: Page, prompt: str, **values: str) -> None:
    make_small(page)
    field(page, "Seed").fill("41")
    order(page, prompt, steps=1)
    await_image(page, prompt)
    for label, value in values.items():
        field(page, label.replace("_", " ")).fill(value)


def test_a_result_is_upscaled_and_both_are_in_the_gallery_with_their_settings(page: Page, url: str):
    upscale(page, "a mill", Upscale_by="3")
    assert list_upscalers(page, "#upscaler") == ["sharp", "Lanczos", "Nearest"]
    page.locator("#upscaler").select_option("Lanczos")
    button(page, "Upscale").click()
    expect(page.locator("#facts")).to_contain_text("192 \u00d7 192")
    expect(page.locator("#facts")).to_contain_text("3 \u00d7 by Lanczos")
    assert page.evaluate(SIZE) == 192
    larger, original = stored(page)
    assert prediction(url, larger["id"])["input"]["scale"] == 3
    assert larger["source"] == original["id"]
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "easel-41-upscaled.png"
    page.reload()
    page.get_by_role("list").get_by_role("button", name="a mill Upscaled, seed 41").click()
    expect(page.locator("#facts")).to_contain_text("192 \u00d7 192")
    button(page, "Use these settings").click()
    expect(field(page, "Prompt")).to_have_value("a mill")
    expect(field(page, "Width")).to_have_value("64")
    expect(field(page, "Upscale by")).to_have_value("3")
    expect(page.locator("#upscaler")).to_have_value("Lanczos")
    button(page, "Upscale").click()  # what was upscaled once
    expect(page.locator("#facts")).to_contain_text("576 \u00d7 576")


def test_what_both_passes_do_is_counted_in_shares(page: Page):
    ask_for_second_pass(page)
    order(page, "in shares", steps=60)
    expect(page.locator("#progress-text")).to_have_text(re.compile(r"Generating, \d+ %"))
    button(page, "Cancel").click()
    expect(page.locator("#canvas")).to_have_text("Cancelled.")


def test_each_of_several_results_is_upscaled_with_its_own_seed(page: Page):
    field(page, "Images").fill("2")
    make_small(page)
    field(page, "Seed").fill("7")
    order(page, "twins", steps=1)
    await_image(page, "Image 2 of 2: twins")
    button(page, "Upscale image 2").click()
    expect(page.get_by_role("list").get_by_role("button", name="twins Upscaled, seed 8")).to_be_visible()
    await_image(page, "twins")


def test_upscaling_waits_its_turn_and_is_cancelled(page: Page, url: str):
    upscale(page, "a slow one")
    other = run_elsewhere(url, steps=100)
    button(page, "Upscale").press("Enter")
    expect(page.locator("#progress-text")).to_contain_text("in the queue")
    button(page, "Cancel").click()
    expect(page.locator("#canvas")).to_have_text("Cancelled.")
    expect(button(page, "Generate")).to_be_focused()
    assert prediction(url, stored(page)[0]["id"])["status"] == "canceled"
    httpx2.post(f"{url}/v1/predictions/{other}/cancel")


def test_a_larger_image_that_nobody_has_any_more_is_said_so(page: Page):
    upscale(page, "gone")
    button(page, "Upscale").click()
    expect(page.locator("#facts")).to_contain_text("128 \u00d7 128")
    await_kept(page)
    page.evaluate(FORGET_IMAGES)
    page.route("**/output/0", lambda route: route.fulfill(status=404, json={"detail": "its result has expired"}))
    page.reload()
    page.get_by_role("list").get_by_role("button", name="gone Upscaled").click()
    expect(page.locator("#canvas")).to_contain_text("its seed generates what it was made of again")


def test_a_result_is_what_the_next_one_begins_with(page: Page):
    upscale(page, "first")
    button(page, "Use as input").click()
    expect(page.get_by_role("img", name="image 1", exact=True)).to_be_visible()
    expect(page.get_by_label("Input image", exact=True)).to_be_focused()


def without(route: Route, *features: str) -> dict[str, Any]:
    return {**route.fetch().json(), **{name: [] for name in features}}


def test_what_the_model_can_not_do_is_not_shown(page: Page):
    page.route("**/playground/config", lambda route: route.fulfill(json=without(route, "hires_upscalers", "upscalers")))
    page.reload()
    page.wait_for_selector("html[data-ready]")
    expect(page.locator("#part-hires")).to_be_hidden()
    order(page, "plain", steps=1)
    await_image(page, "plain")
    expect(page.locator("#upscaling")).to_be_hidden()
    expect(button(page, "Upscale")).to_have_count(0)


def test_a_result_that_is_seen_can_be_upscaled_at_once_however_slow_the_browser_keeps_it(page: Page):
    page.evaluate(
        """() => {
          const decode = window.createImageBitmap;
          window.createImageBitmap = async (blob, ...rest) => {
            await new Promise((resolve) => setTimeout(resolve, 1500));
            return decode(blob, ...rest);
          };
        }"""
    )
    order(page, "slowly kept", steps=1)
    await_image(page, "slowly kept")
    button(page, "Upscale").click()
    expect(page.locator("#facts")).to_contain_text("1024 \u00d7 1024")


def test_both_are_shown_once_the_key_is_there(browser: Browser, tmp_path):
    (tmp_path / "alice").write_text(KEY)
    with serve(api_keys_directory=str(tmp_path)) as url, open_page(browser, url, **DESKTOP) as page:
        expect(page.locator("#part-hires")).to_be_hidden()
        field(page, "API key").fill(KEY)
        field(page, "Prompt").focus()
        expect(page.locator("#part-hires")).to_be_visible()
        order(page, "mine", steps=1)
        await_image(page, "mine")
        button(page, "Upscale").click()
        expect(page.locator("#facts")).to_contain_text("1024 \u00d7 1024")


def test_they_fit_a_phone_and_are_reached_by_keyboard(browser: Browser, url: str):
    with open_page(browser, url, **PHONE) as page:
        page.locator("summary", has_text="Second pass").focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        page.keyboard.press("Tab")
        expect(field(page, "Scale")).to_be_focused()
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        field(page, "Generate it larger in a second pass (hires fix)").uncheck()
        page.get_by_text("Settings", exact=True).click()
        order(page, "on a phone", steps=1)
        await_image(page, "on a phone")
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        for label in ("Upscaler", "Upscale by"):
            expect(page.locator("#upscaling").get_by_label(label, exact=True)).to_be_visible()
        expect(page.get_by_role("group", name="How images are upscaled")).to_be_visible()


def test_what_is_copied_has_the_second_pass(page: Page):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    ask_for_second_pass(page)
    field(page, "Prompt").fill("copied")
    button(page, "Copy as curl").click()
    expect(button(page, "Copied")).to_be_visible()
    text = page.evaluate("navigator.clipboard.readText()")
    body = json.loads(text[text.index("-d '") + 4 : text.rindex("'")])
    assert body["input"]["hires"] == {"upscaler": "Latent", "scale": 2}


def test_an_image_too_large_for_a_request_is_sent_without_loss_as_something_smaller(browser: Browser):
    limits = {"max_body_bytes": 400_000}
    with serve(limits=limits) as url, open_page(browser, url, **DESKTOP) as page:
        most = httpx2.get(f"{url}/playground/config").json()["limits"]["max_lone_bytes"]
        assert most < 300_000
        order(page, "flat", steps=1)
        await_image(page, "flat")
        sent = page.evaluate(
            """async (most) => {
                const { toFitting } = await import("./playground/images.js");
                const canvas = new OffscreenCanvas(512, 512);
                const context = canvas.getContext("2d");
                for (let y = 0; y < 512; y += 1) for (let x = 0; x < 512; x += 1) {
                    context.fillStyle = `rgb(${(x * y) % 256} ${(x + y) % 256} ${x ^ y % 256})`;
                    context.fillRect(x, y, 1, 1);
                }
                const blob = await canvas.convertToBlob();
                const small = await toFitting(blob, Math.min(most, blob.size - 1));
                return [blob.size, small.size, small.type];
            }""",
            most,
        )
        assert sent[1] < sent[0]
        assert sent[2] == "image/webp"
