"""The recipe of an image in the playground: Easel's own and AUTOMATIC1111's text, and hostile ones."""

import json

import pytest
from playwright.sync_api import Page, expect

from tests.inference_server.api.playground.page import (
    BEYOND_DOUBLE,
    await_image,
    build_file,
    build_png,
    button,
    field,
    hand_over,
    open_part,
)

pytestmark = pytest.mark.browser

INFOTEXT = (
    "a lighthouse, (oil:1.2)\nNegative prompt: fog\n"
    "Steps: 7, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 4.5, Seed: 99, Size: 256x384, Model: other"
)


def assert_fields(page: Page, **values: str) -> None:
    for label, value in values.items():
        expect(field(page, label.replace("_", " "))).to_have_value(value)


@pytest.mark.parametrize("way", ["drop", "choose"])
def test_the_text_of_automatic1111_fills_in_the_form(page: Page, way):
    image = build_png(64, 64, parameters=INFOTEXT)
    if way == "drop":
        hand_over(page.locator("#stage"), "drop", "theirs.png", image)
    else:
        page.get_by_label("Settings from an image").set_input_files(build_file("theirs.png", image))
    expect(page.locator("#recipe-note")).to_have_text("The settings of theirs.png are in the form.")
    assert_fields(page, Prompt="a lighthouse, (oil:1.2)", Negative_prompt="fog", Steps="7", Guidance="4.5", Seed="99")
    assert_fields(page, Width="256", Height="384", Sampler="DPM++ 2M Karras")


def test_the_recipe_of_easel_fills_in_the_form_with_every_digit_of_its_seed(page: Page):
    parameters = {"prompt": 'a "boat"\nSteps: 3', "seed": int(BEYOND_DOUBLE), "widthPixels": 128, "heightPixels": 192}
    parameters |= {"steps": 5, "guidanceScale": 2.5, "sampler": "Euler a", "imageDigest": "00"}
    recipe = json.dumps({"easel": 1, "parameters": parameters}, separators=(",", ":"))
    hand_over(page.locator("#history-title"), "drop", "ours.png", build_png(64, 64, easel=recipe))
    note = "The settings of ours.png are in the form; it was made from an image: add that one again."
    expect(page.locator("#recipe-note")).to_have_text(note)
    assert_fields(page, Prompt='a "boat"\nSteps: 3', Seed=BEYOND_DOUBLE, Width="128", Height="192", Steps="5")
    assert_fields(page, Guidance="2.5", Sampler="Euler a")


def test_a_result_of_the_service_says_how_it_was_made_and_is_made_again(page: Page):
    field(page, "Seed").fill("41")
    field(page, "Steps").fill("3")
    field(page, "Prompt").fill("the same")
    button(page, "Generate").click()
    await_image(page, "the same")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    page.reload()
    page.wait_for_selector("html[data-ready]")
    page.get_by_label("Settings from an image").set_input_files(download.value.path())
    assert_fields(page, Prompt="the same", Seed="41", Steps="3")


def test_an_input_image_offers_its_settings(page: Page):
    open_part(page, "Input image")
    image = build_file("theirs.png", build_png(64, 64, parameters=INFOTEXT))
    page.get_by_label("Input image", exact=True).set_input_files(image)
    button(page, "Use the settings of the input image").click()
    assert_fields(page, Prompt="a lighthouse, (oil:1.2)", Steps="7")


def test_an_image_that_says_nothing_is_said_so(page: Page):
    page.get_by_label("Settings from an image").set_input_files(build_file("mute.png", build_png(64, 64)))
    expect(page.locator("#recipe-note")).to_have_text("mute.png says nothing of how it was made.")


HOSTILE = "<img src=x onerror=alert(1)>"


def test_a_hostile_recipe_is_text_and_what_makes_no_sense_in_it_is_left_out(page: Page):
    parameters: dict[str, object] = {
        "prompt": HOSTILE,
        "sampler": HOSTILE,
        "widthPixels": [HOSTILE],
        "steps": {"__proto__": 1},
    }
    parameters |= {"adapters": [{"name": HOSTILE, "weight": 1}, None, 7], "controls": "x", "hires": {"upscaler": {}}}
    recipe = json.dumps({"easel": 1, "parameters": parameters})
    hand_over(page.locator("#stage"), "drop", f"{HOSTILE}.png", build_png(64, 64, easel=recipe))
    expect(page.locator("#recipe-note")).to_contain_text(f"the adapter {HOSTILE} is none of this service\u2019s")
    expect(page.locator("#recipe-note")).to_contain_text(f"the sampler {HOSTILE} is none of this service\u2019s")
    assert_fields(page, Prompt=HOSTILE, Width="512", Sampler="")
    assert page.locator("img[src=x]").count() == 0
