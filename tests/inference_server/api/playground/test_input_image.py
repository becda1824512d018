"""An image to begin with in the playground: chosen, dropped or pasted, and a mask painted on it."""

import base64
import io
import json
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, Route, expect

from tests.inference_server.api.playground.page import (
    DESKTOP,
    PHONE,
    await_image,
    build_file,
    build_png,
    button,
    field,
    hand_over,
    open_part,
    order,
    serve,
)
from tests.support.browser import open_page

pytestmark = pytest.mark.browser


def sent_input(page: Page, prompt: str) -> dict[str, Any]:
    """What the page sends of the form, once its image is there."""
    sent: list[str] = []

    def note(route: Route) -> None:
        sent.append(route.request.post_data or "")
        route.continue_()

    page.route("**/v1/predictions", note)
    order(page, prompt, steps=2)
    await_image(page, prompt)
    page.unroute("**/v1/predictions")
    return dict(json.loads(sent[0])["input"])


def read(data_url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data_url.partition(",")[2])))


def choose(page: Page, name: str, content: bytes) -> None:
    page.get_by_label("Input image", exact=True).set_input_files(build_file(name, content))
    expect(page.get_by_role("img", name=name, exact=True)).to_be_visible()


@pytest.fixture
def painting(page: Page) -> tuple[Page, Locator]:
    """A page with an input image of 256 x 128, and the mask over it."""
    open_part(page, "Input image")
    choose(page, "boat.png", build_png(256, 128))
    mask = page.get_by_role("application", name="Mask over the input image")
    expect(mask).to_be_visible()
    return page, mask


def test_a_chosen_image_is_what_the_result_begins_with_and_its_proportions_are_taken(page: Page):
    open_part(page, "Input image")
    choose(page, "boat.png", build_png(256, 128))
    field(page, "Change").fill("0.5")
    assert (field(page, "Width").input_value(), field(page, "Height").input_value()) == ("256", "128")
    sent = sent_input(page, "a boat")
    assert read(sent["image"]).size == (256, 128)
    assert sent["prompt_strength"] == 0.5
    assert "mask" not in sent
    button(page, "Remove: Input image").click()
    expect(page.get_by_label("Input image", exact=True)).to_be_focused()
    assert "image" not in sent_input(page, "without it")


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_an_image_is_dropped_on_the_page_or_pasted_into_it(page: Page, kind):
    hand_over(page.locator("#stage" if kind == "drop" else "#prompt"), kind, "found.png", build_png(64, 64))
    expect(page.get_by_role("img", name="found.png", exact=True)).to_be_visible()


def test_an_image_that_is_too_large_is_made_smaller_and_it_is_said(browser: Browser):
    with serve(limits={"max_width_pixels": 512, "max_height_pixels": 512}) as url, open_page(browser, url) as page:
        open_part(page, "Input image")
        choose(page, "large.png", build_png(2000, 1000))
        expect(page.get_by_text("Reduced from 2000 \u00d7 1000: this service takes no larger ones.")).to_be_visible()
        assert read(sent_input(page, "smaller")["image"]).size == (512, 256)


def test_a_file_that_is_no_image_is_refused_where_it_was_chosen(page: Page):
    open_part(page, "Input image")
    name = "<img src=x onerror=alert(1)>.png"
    page.get_by_label("Input image", exact=True).set_input_files(build_file(name, b"no image"))
    expect(page.get_by_text(f"{name} can\u2019t be read as an image")).to_be_visible()
    assert page.locator("img[src=x]").count() == 0


def test_what_is_painted_is_the_mask_and_what_is_erased_is_not(painting: tuple[Page, Locator]):
    page, mask = painting
    field(page, "Brush size, in percent").fill("20")
    mask.scroll_into_view_if_needed()
    box = mask.bounding_box()
    assert box
    drag(page, box["x"] + box["width"] / 4, box["x"] + box["width"] * 3 / 4, box["y"] + box["height"] / 2)
    mask.press("e")
    expect(field(page, "Erase")).to_be_checked()
    drag(page, box["x"] + box["width"] / 2, box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    sent = read(sent_input(page, "a new sail")["mask"]).convert("L")
    assert sent.size == (256, 128)
    assert [sent.getpixel((x, 64)) for x in (10, 80, 128, 170, 250)] == [0, 255, 0, 255, 0]
    assert sent.getpixel((80, 10)) == 0


def drag(page: Page, start: float, end: float, y: float) -> None:
    page.mouse.move(start, y)
    page.mouse.down()
    page.mouse.move(end, y, steps=5)
    page.mouse.up()


def test_a_mask_is_painted_with_the_keyboard_alone(painting: tuple[Page, Locator]):
    page, mask = painting
    state = page.locator("#mask-state")
    mask.focus()
    mask.press("+")
    expect(state).to_have_text("Brush size 11 %. Nothing is painted.")
    mask.press("ArrowLeft")
    expect(state).to_contain_text("Brush at 49 % from the left, 50 % from the top.")
    mask.press(" ")
    for _ in range(4):
        mask.press("Shift+ArrowUp")
    expect(state).not_to_contain_text("Nothing")
    painted = read(sent_input(page, "by keyboard")["mask"]).convert("L")
    assert painted.getpixel((125, 60)) == 255
    for _ in range(4):
        mask.press("Control+z")
    expect(state).not_to_contain_text("Nothing")
    mask.press("Control+z")
    expect(state).to_have_text("Nothing is painted.")
    button(page, "Invert the mask").click()
    expect(state).to_have_text("100 % is painted.")
    button(page, "Clear the mask").click()
    expect(state).to_have_text("Nothing is painted.")
    button(page, "Undo").click()
    expect(state).to_have_text("100 % is painted.")


def test_a_mask_is_painted_on_a_phone_and_nothing_is_wider_than_it(browser: Browser, url: str):
    with open_page(browser, url, **PHONE, has_touch=True) as page:
        open_part(page, "Input image")
        choose(page, "long-" * 40 + ".png", build_png(1024, 256))
        mask = page.get_by_role("application", name="Mask over the input image")
        mask.tap()
        expect(page.locator("#mask-state")).not_to_contain_text("Nothing")
        assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_the_image_and_its_mask_come_back_with_the_settings(painting: tuple[Page, Locator]):
    page, mask = painting
    mask.press(" ")
    first = sent_input(page, "once")
    page.reload()
    page.get_by_role("list").get_by_role("button", name="once Seed").click()
    await_image(page, "once")
    button(page, "Use these settings").click()
    expect(page.locator("#mask-state")).not_to_contain_text("Nothing")
    again = sent_input(page, "twice")
    assert again["image"] == first["image"]
    assert read(again["mask"]).tobytes() == read(first["mask"]).tobytes()


def test_a_model_without_such_a_task_shows_no_place_for_an_image(browser: Browser, url: str):
    with open_page(browser, url, **DESKTOP) as page:
        page.route("**/playground/config", lambda route: route.fulfill(json=leave_out(route)))
        page.reload()
        page.wait_for_selector("html[data-ready]")
        expect(page.locator("summary", has_text="Input image")).to_be_hidden()
        hand_over(page.locator("#prompt"), "paste", "found.png", build_png(64, 64))
        expect(page.locator("#image-place img[src]")).to_have_count(0)


def leave_out(route: Route) -> dict[str, Any]:
    return {**route.fetch().json(), "tasks": ["TextToImage"]}
