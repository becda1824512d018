"""Adapters and ControlNets in the playground: of the service's lists, with weights, sent and given back."""

import json

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.inference_server.api.playground.page import (
    DESKTOP,
    KEY,
    PHONE,
    await_image,
    build_file,
    build_png,
    button,
    field,
    open_part,
    order,
    prediction,
    serve,
    stored,
)
from tests.support.browser import open_page

pytestmark = pytest.mark.browser


def add_adapter(page: Page, name: str) -> None:
    field(page, "Adapter (LoRA)").select_option(name)
    button(page, "Add").click()
    expect(field(page, f"Weight of {name}")).to_be_focused()


def test_adapters_are_added_weighed_and_removed_and_come_back_with_the_settings(page: Page, url: str):
    open_part(page, "Adapters")
    assert field(page, "Adapter (LoRA)").locator("option").all_text_contents() == ["ink", "clay"]
    add_adapter(page, "ink")
    expect(field(page, "Weight of ink")).to_have_value("0.7")
    add_adapter(page, "clay")
    expect(page.locator("#loras-hint")).to_have_text("2 of at most 2 in use.")
    field(page, "Weight of ink").fill("-0.4")
    slider = page.get_by_label("Weight of clay, slider")
    slider.focus()
    slider.press("ArrowRight")
    expect(field(page, "Weight of clay")).to_have_value("1.05")
    order(page, "both", steps=1)
    await_image(page, "both")
    used = prediction(url, stored(page)[0]["id"])["input"]["loras"]
    assert used == [{"name": "clay", "weight": 1.05}, {"name": "ink", "weight": -0.4}]
    expect(page.locator("#facts")).to_contain_text("clay 1.05, ink -0.4")
    button(page, "Remove clay").click()
    expect(field(page, "Adapter (LoRA)")).to_be_focused()
    button(page, "Use these settings").click()
    expect(field(page, "Weight of clay")).to_have_value("1.05")


def test_a_weight_that_is_not_allowed_is_said_beside_the_adapters(page: Page):
    open_part(page, "Adapters")
    add_adapter(page, "ink")
    field(page, "Weight of ink").fill("11")
    order(page, "too much", steps=1)
    expect(page.locator("#loras-error")).to_contain_text("weight of 11")
    assert stored(page) == []


def test_adapters_are_chosen_by_keyboard(page: Page):
    page.locator("summary", has_text="Adapters").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(field(page, "Adapter (LoRA)")).to_be_focused()
    page.keyboard.press("Enter")
    expect(field(page, "Weight of ink")).to_be_focused()


def test_adapters_fit_a_phone(browser: Browser, url: str):
    with open_page(browser, url, **PHONE) as page:
        open_part(page, "Adapters")
        add_adapter(page, "ink")
        assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_adapters_are_shown_once_the_key_is_there(browser: Browser, tmp_path):
    (tmp_path / "alice").write_text(KEY)
    with serve(api_keys_directory=str(tmp_path)) as url, open_page(browser, url, **DESKTOP) as page:
        expect(page.locator("#part-loras")).to_be_hidden()
        field(page, "API key").fill(KEY)
        field(page, "Prompt").focus()
        expect(page.locator("#part-loras")).to_be_visible()


def test_a_control_net_shows_what_it_sees_and_is_asked_for(page: Page):
    open_part(page, "ControlNet")
    button(page, "Add a ControlNet").click()
    expect(field(page, "Net")).to_be_focused()
    order(page, "held", steps=1)
    expect(page.locator("#controlnet-error")).to_have_text("ControlNet needs an image; choose one, or remove it")
    field(page, "Preprocessor").select_option("canny")
    page.get_by_label("Control image", exact=True).set_input_files(build_file("<b>.png", build_png(128, 128)))
    expect(page.get_by_role("img", name="What the ControlNet sees")).to_be_visible()
    assert page.evaluate("document.querySelector('.unit figure:last-of-type img').naturalWidth") > 0
    field(page, "Weight").fill("0.6")
    field(page, "To (share of steps)").fill("0.8")
    with page.expect_request("**/v1/predictions") as asked:
        order(page, "held", steps=1)
    (unit,) = json.loads(asked.value.post_data or "")["input"]["controlnet"]
    assert unit.pop("image").startswith("data:image/png;base64,")
    assert unit == {"model": "edges", "preprocessor": "canny", "weight": 0.6, "start": 0, "end": 0.8}
    await_image(page, "held")
    button(page, "Remove ControlNet 1").click()
    expect(button(page, "Add a ControlNet")).to_be_focused()
