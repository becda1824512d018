"""Adapters and ControlNets in the playground: of the service's lists, with weights, sent and given back."""

import json
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

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


def sent_units(page: Page, prompt: str) -> list[dict[str, Any]]:
    """What the page asks of ControlNets, once its image is there; images as their sizes."""
    with page.expect_request("**/v1/predictions") as asked:
        order(page, prompt, steps=2)
    await_image(page, prompt)
    return list(json.loads(asked.value.post_data or "")["input"]["controlnet"])


def choose_control_image(page: Page, number: int, content: bytes) -> None:
    image = page.get_by_role("group", name=f"ControlNet {number}").get_by_label("Control image", exact=True)
    image.set_input_files(build_file("<b>.png", content))
    expect(page.locator("#controls fieldset").nth(number - 1).get_by_role("img", name="<b>.png")).to_be_visible()


def test_a_control_net_shows_what_it_sees_and_is_asked_for(page: Page):
    open_part(page, "ControlNet")
    button(page, "Add a ControlNet").click()
    expect(field(page, "Net")).to_be_focused()
    order(page, "held", steps=1)
    expect(page.locator("#controlnet-error")).to_have_text("ControlNet needs an image; choose one, or remove it")
    field(page, "Preprocessor").select_option("canny")
    choose_control_image(page, 1, build_png(128, 128))
    expect(page.get_by_role("img", name="What the ControlNet sees")).to_be_visible()
    assert page.evaluate("document.querySelector('.unit figure:last-of-type img').naturalWidth") > 0
    field(page, "Weight").fill("0.6")
    field(page, "To (share of steps)").fill("0.8")
    field(page, "What counts for more").select_option("My prompt is more important")
    field(page, "Other proportions").select_option("Resize and Fill")
    with page.expect_request("**/controlnet/detect") as looked:
        field(page, "Low Threshold").fill("50")
    assert json.loads(looked.value.post_data or "")["controlnet_threshold_a"] == 50
    (unit,) = sent_units(page, "held")
    assert unit.pop("image").startswith("data:image/png;base64,")
    thresholds = {"threshold_a": 50, "threshold_b": 200}
    say = {"mode": "My prompt is more important", "resize_mode": "Resize and Fill"}
    shares = {"weight": 0.6, "start": 0, "end": 0.8}
    assert unit == {"model": "edges", "preprocessor": "canny", **thresholds, **shares, **say}
    expect(page.locator("#facts")).to_contain_text("edges 0.6")
    button(page, "Remove ControlNet 1").click()
    expect(button(page, "Add a ControlNet")).to_be_focused()
    button(page, "Use these settings").click()
    for label, value in {"Weight": "0.6", "Low Threshold": "50", "Other proportions": "Resize and Fill"}.items():
        expect(field(page, label)).to_have_value(value)
    (again,) = sent_units(page, "held again")
    assert again.pop("image").startswith("data:image/png;base64,")
    assert again == unit


def test_several_control_nets_are_asked_for_up_to_the_services_bound(page: Page, url: str):
    open_part(page, "ControlNet")
    for number, net in ((1, "edges"), (2, "depth"), (3, "edges")):
        button(page, "Add a ControlNet").click()
        page.get_by_role("group", name=f"ControlNet {number}").get_by_label("Net", exact=True).select_option(net)
        choose_control_image(page, number, build_png(64, 64))
    expect(page.locator("#controlnet-hint")).to_have_text("3 of at most 3 in use.")
    expect(button(page, "Add a ControlNet")).to_have_attribute("aria-disabled", "true")
    assert [unit["model"] for unit in sent_units(page, "three")] == ["edges", "depth", "edges"]
    expect(page.locator("#facts")).to_contain_text("edges 1, depth 1, edges 1")


def test_a_control_net_without_an_image_of_its_own_looks_at_the_input_image(page: Page):
    open_part(page, "ControlNet")
    button(page, "Add a ControlNet").click()
    field(page, "Preprocessor").select_option("canny")
    open_part(page, "Input image")
    page.get_by_label("Input image", exact=True).set_input_files(build_file("boat.png", build_png(64, 64)))
    expect(page.get_by_role("img", name="What the ControlNet sees")).to_be_visible()
    (unit,) = sent_units(page, "held by what it begins with")
    assert "image" not in unit


def test_a_control_net_beside_a_second_pass_says_in_which_it_counts(page: Page):
    open_part(page, "ControlNet")
    button(page, "Add a ControlNet").click()
    choose_control_image(page, 1, build_png(64, 64))
    expect(field(page, "In which pass")).to_be_hidden()
    field(page, "Kind of control image (for a union net)").select_option("Depth")
    open_part(page, "Second pass")
    field(page, "Generate it larger in a second pass (hires fix)").check()
    field(page, "In which pass").select_option("Low res only")
    for side in ("Width", "Height"):
        field(page, side).fill("64")
    (unit,) = sent_units(page, "in the first")
    assert (unit["hr_option"], unit["control_type"]) == ("Low res only", "Depth")
    field(page, "Generate it larger in a second pass (hires fix)").uncheck()
    (unit,) = sent_units(page, "in the only one")
    assert "hr_option" not in unit


def test_what_is_wrong_with_a_control_net_is_said_of_which_and_its_field_is_marked(page: Page):
    open_part(page, "ControlNet")
    for number in (1, 2):
        button(page, "Add a ControlNet").click()
        choose_control_image(page, number, build_png(64, 64))
    second = page.get_by_role("group", name="ControlNet 2")
    second.get_by_label("Preprocessor").select_option("canny")
    second.get_by_label("Low Threshold", exact=True).fill("900")
    order(page, "wrong", steps=1)
    error = page.locator("#controlnet-error")
    expect(error).to_have_text("ControlNet 2, Low Threshold is 900; Low Threshold of canny is allowed from 1 to 255")
    expect(second.get_by_label("Low Threshold", exact=True)).to_be_focused()
    expect(second.get_by_label("Low Threshold", exact=True)).to_have_attribute("aria-invalid", "true")
    assert stored(page) == []


def test_control_nets_fit_a_phone(browser: Browser, url: str):
    with open_page(browser, url, **PHONE) as page:
        open_part(page, "ControlNet")
        button(page, "Add a ControlNet").click()
        field(page, "Preprocessor").select_option("lineart_standard")
        expect(field(page, "Gaussian Sigma")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_clip_skip_is_asked_for_and_eta_with_the_sampler_that_takes_it(page: Page, url: str):
    expect(field(page, "Eta")).to_be_hidden()
    field(page, "Sampler").select_option("DDIM")
    field(page, "Eta").fill("0.3")
    field(page, "Clip skip").fill("2")
    order(page, "skipped", steps=1)
    await_image(page, "skipped")
    asked = prediction(url, stored(page)[0]["id"])["input"]
    assert (asked["clip_skip"], asked["eta"]) == (2, 0.3)
    expect(page.locator("#facts")).to_contain_text("Eta")
    field(page, "Sampler").select_option("Euler")
    expect(field(page, "Eta")).to_be_hidden()
    order(page, "without eta", steps=1)
    await_image(page, "without eta")
    field(page, "Clip skip").fill("13")
    button(page, "Generate").click()
    expect(page.get_by_text("Clip skip is 13, allowed are 1 to 12")).to_be_visible()


def test_a_model_without_layers_to_skip_shows_no_field_for_it(page: Page):
    def leave_out(route: Route) -> None:
        config = route.fetch().json()
        del config["bounds"]["clip_skip"]
        route.fulfill(json=config)

    page.route("**/playground/config", leave_out)
    page.reload()
    page.wait_for_selector("html[data-ready]")
    expect(field(page, "Clip skip")).to_be_hidden()
    expect(field(page, "Steps")).to_be_visible()
