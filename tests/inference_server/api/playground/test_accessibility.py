"""The playground by keyboard, for screen readers, on a phone, light and dark."""

import re

import httpx2
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.inference_server.api.playground.page import (
    DESKTOP,
    PHONE,
    await_image,
    button,
    field,
    order,
    prediction,
    run_elsewhere,
    stored,
)
from tests.inference_server.api.serving import wait_for
from tests.support.browser import open_page

pytestmark = pytest.mark.browser


def test_all_works_with_the_keyboard_alone(page: Page):
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the prompt")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")  # the link leads to the prompt, or right before it
    if not page.evaluate("document.activeElement.id === 'prompt'"):
        page.keyboard.press("Shift+Tab")
    expect(field(page, "Prompt")).to_be_focused()
    page.keyboard.type("typed")
    page.keyboard.press("Control+Enter")
    expect(button(page, "Cancel")).to_be_visible()
    for _ in range(30):
        if page.evaluate("document.activeElement.id === 'cancel'"):
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#canvas")).to_have_text("Cancelled.")
    expect(button(page, "Generate")).to_be_focused()
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_every_control_has_a_name_and_every_part_its_role(page: Page):
    names = page.evaluate("""Array.from(document.querySelectorAll("input, textarea, select"),
        (control) => (control.labels[0]?.textContent ?? control.ariaLabel)?.trim())""")
    assert all(names)
    for role, name in (
        ("form", "What to generate"),
        ("region", "Image"),
        ("region", "History"),
        ("group", "Size"),
        ("group", "The same request elsewhere"),
        ("navigation", "Elsewhere"),
    ):
        expect(page.get_by_role(role, name=name)).to_be_visible()  # type: ignore[arg-type]
    expect(page.get_by_role("heading", level=1)).to_have_text("Easel")
    assert page.locator("[role=status][aria-live=polite]").count() == 1
    assert page.evaluate("document.documentElement.lang") == "en"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone_in_either_scheme(browser: Browser, url: str, scheme):
    with open_page(browser, url, **PHONE, color_scheme=scheme) as page:
        page.get_by_text("Settings", exact=True).click()
        field(page, "Images").fill("2")
        field(page, "Width").fill("2040")
        field(page, "Height").fill("64")
        order(page, "long" * 200, steps=1)
        expect(page.get_by_role("link", name="Download image 2")).to_be_visible()
        field(page, "Seed").fill("9" * 40)
        button(page, "Generate").click()
        expect(page.locator("#seed-error")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") == 360


CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const read = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (color) => read(color).slice(0, 3).map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
  const background = (element) => {
    const color = getComputedStyle(element).backgroundColor;
    return read(color)[3] === 255 ? color : background(element.parentElement);
  };
  const texts = [...document.querySelectorAll("body *")].filter((element) => element.checkVisibility()
    && [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()));
  return texts.map((element) => {
    const [light, dark] = [luminance(getComputedStyle(element).color), luminance(background(element))]
      .sort((a, b) => b - a);
    return [element.outerHTML.slice(0, 80), (light + 0.05) / (dark + 0.05)];
  });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_either_scheme(browser: Browser, url: str, scheme):
    with open_page(browser, url, **DESKTOP, color_scheme=scheme) as page:
        order(page, "", steps=1)
        expect(page.locator("#prompt-error")).to_be_visible()
        order(page, "legible", steps=1)
        await_image(page, "legible")
        # https://www.w3.org/TR/WCAG22/#contrast-minimum
        found = page.evaluate(CONTRASTS)
        assert len(found) > 20
        assert [text for text in found if text[1] < 4.5] == []
        backdrop = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", backdrop))) < 3 * 128) is (scheme == "dark")


def test_nothing_moves_for_those_who_asked_for_stillness(browser: Browser, url: str):
    other = run_elsewhere(url, steps=100)
    with open_page(browser, url, **DESKTOP, reduced_motion="reduce") as page:
        order(page, "still", steps=1)
        waiting = page.locator(".waiting")
        expect(waiting).to_be_visible()
        assert waiting.evaluate("(element) => getComputedStyle(element).animationName") == "none"
        httpx2.post(f"{url}/v1/predictions/{other}/cancel")
        await_image(page, "still")


def test_a_page_that_is_left_leaves_no_stream_behind(browser: Browser, url: str):
    with open_page(browser, url, **DESKTOP) as page:
        order(page, "leaving", steps=100)
        expect(page.locator("#progress-text")).to_contain_text("Step")
        (entry,) = stored(page)
    assert prediction(url, entry["id"])["status"] == "processing"  # it is the client's to cancel, not the page's
    httpx2.post(f"{url}/v1/predictions/{entry['id']}/cancel")
    wait_for(lambda: prediction(url, entry["id"])["status"] == "canceled", 20)
