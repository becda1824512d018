"""The recipe of an image in the playground: Easel's own and AUTOMATIC1111's text, and hostile ones."""

import io
import json
import random

import pytest
from PIL import Image, PngImagePlugin
from playwright.sync_api import Browser, Page, expect

from tests.inference_server.api.playground.page import (
    BEYOND_DOUBLE,
    DESKTOP,
    await_image,
    build_file,
    build_png,
    button,
    field,
    hand_over,
    open_part,
    serve,
)
from tests.support.browser import open_page

pytestmark = pytest.mark.browser

INFOTEXT = (
    "a lighthouse, (oil:1.2)\nNegative prompt: fog\n"
    "Steps: 7, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 4.5, Seed: 99, Size: 256x384, Model: other"
)


def test_the_settings_of_an_image_larger_than_a_request_are_read_all_the_same(browser: Browser):
    noise = Image.frombytes("RGB", (600, 600), random.Random(0).randbytes(600 * 600 * 3))  # noqa: S311
    text, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    text.add_itxt("parameters", INFOTEXT)
    noise.save(buffer, "PNG", pnginfo=text)
    large = buffer.getvalue()
    limits = {"max_body_bytes": 400_000}
    with serve(limits=limits) as url, open_page(browser, url, **DESKTOP) as page:
        assert len(large) > 2 * limits["max_body_bytes"]
        page.get_by_label("Settings from an image").set_input_files(build_file("large.png", large))
        expect(page.locator("#recipe-note")).to_have_text("The settings of large.png are in the form.")
        assert_fields(page, Prompt="a lighthouse, (oil:1.2)", Seed="99")
        jpeg = build_file("large.jpg", b"\xff\xd8\xff" + large)
        page.get_by_label("Settings from an image").set_input_files(jpeg)
        expect(page.locator("#recipe-note")).to_contain_text(
            "large.jpg can\u2019t be read: it has 1.0 MiB, at most 0.2"
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


ALL_OF_IT = (
    "a lighthouse <lora:ink:0.6>\nNegative prompt: fog\nSteps: 7, Sampler: DDIM, CFG scale: 4.5, Seed: 99, "
    "Size: 256x384, Clip skip: 2, Denoising strength: 0.4, Eta DDIM: 0.2, Hires upscale: 1.5, Hires steps: 5, "
    'Hires upscaler: Lanczos, ControlNet 0: "Module: canny, Model: depth [0123abcd], Weight: 0.7, Resize Mode: Resize '
    "and Fill, Threshold A: 60, Threshold B: 90, Guidance Start: 0.1, Guidance End: 0.8, Control Mode: My prompt is "
    'more important, Union Control Type: Soft Edge, Hr Option: High res only"'
)
OWN = {
    "prompt": "a lighthouse",
    "negativePrompt": "fog",
    "seed": 99,
    "widthPixels": 256,
    "heightPixels": 384,
    "steps": 7,
    "guidanceScale": 4.5,
    "sampler": "DDIM",
    "clipSkip": 2,
    "eta": 0.2,
    "hires": {"widthPixels": 384, "heightPixels": 576, "upscaler": "Lanczos", "key": "", "steps": 5, "strength": 0.4},
    "adapters": [{"name": "ink", "weight": 0.6, "key": "x"}],
    "controls": [
        {"name": "depth", "weight": 0.7, "start": 0.1, "end": 0.8, "mode": "My prompt is more important", "key": "x"}
        | {"controlType": "Soft Edge", "passes": "High res only"}
    ],
}


@pytest.mark.parametrize("form", ["parameters", "easel"])
def test_a_second_pass_adapters_and_control_nets_of_a_recipe_are_filled_in(page: Page, form):
    said = ALL_OF_IT if form == "parameters" else json.dumps({"easel": 1, "parameters": OWN}, separators=(",", ":"))
    hand_over(page.locator("#stage"), "drop", "all.png", build_png(64, 64, **{form: said}))
    note = "The settings of all.png are in the form; the ControlNet\u2019s image is not in it: choose it again."
    expect(page.locator("#recipe-note")).to_have_text(note)
    assert_fields(page, Prompt="a lighthouse", Negative_prompt="fog", Seed="99", Width="256", Height="384", Steps="7")
    assert_fields(page, Sampler="DDIM", Eta="0.2", Clip_skip="2", Weight_of_ink="0.6")
    expect(page.locator("#hires")).to_be_checked()
    expect(page.locator("#hires-upscaler")).to_have_value("Lanczos")
    assert_fields(page, Scale="1.5", Change_in_the_second_pass="0.4", Steps_of_the_second_pass="5")
    expect(page.locator("#hires-size")).to_contain_text("The image has 384 \u00d7 576 pixels then")
    assert_fields(page, Net="depth", Weight="0.7", What_counts_for_more="My prompt is more important")
    assert_fields(page, In_which_pass="High res only")
    expect(field(page, "Kind of control image (for a union net)")).to_have_value("Soft Edge")
    expect(page.locator("#control-1-start")).to_have_value("0.1")
    expect(page.locator("#control-1-end")).to_have_value("0.8")
    if form == "parameters":  # what the control image was made by, its own recipe doesn't say
        assert_fields(page, Preprocessor="canny", Low_Threshold="60", High_Threshold="90")
        assert_fields(page, Other_proportions="Resize and Fill")


def test_a_recipe_whose_second_pass_no_scale_gives_is_asked_for_by_its_size(page: Page, url: str):
    own: dict[str, object] = {"prompt": "odd", "widthPixels": 128, "heightPixels": 128, "steps": 2}
    own["hires"] = {"widthPixels": 256, "heightPixels": 200, "upscaler": "None", "strength": 0.7}
    hand_over(
        page.locator("#stage"), "drop", "odd.png", build_png(64, 64, easel=json.dumps({"easel": 1, "parameters": own}))
    )
    expect(page.locator("#hires-size")).to_contain_text("The image has 256 \u00d7 200 pixels then")
    expect(page.locator("#hires-upscaler")).to_have_value("Lanczos")
    button(page, "Generate").click()
    await_image(page, "odd")
    expect(page.locator("#facts")).to_contain_text("256 \u00d7 200")
    field(page, "Scale").fill("1.5")
    expect(page.locator("#hires-size")).to_contain_text("The image has 192 \u00d7 192 pixels then")


def test_what_of_a_recipe_this_service_has_not_is_said(page: Page):
    foreign = ALL_OF_IT.replace("ink", "gone").replace("Lanczos", "ESRGAN").replace("depth [", "pose [")
    hand_over(page.locator("#stage"), "drop", "theirs.png", build_png(64, 64, parameters=foreign))
    note = page.locator("#recipe-note")
    for missing in ("the adapter gone", "the upscaler ESRGAN", "the ControlNet pose"):
        expect(note).to_contain_text(f"{missing} is none of this service\u2019s")
    field(page, "Sampler").select_option("")
    hand_over(
        page.locator("#stage"), "drop", "more.png", build_png(64, 64, parameters=ALL_OF_IT.replace("canny", "openpose"))
    )
    expect(note).to_contain_text("the preprocessor openpose is none of this service\u2019s")


@pytest.mark.parametrize("form", ["parameters", "easel"])
def test_an_image_that_was_only_enlarged_is_said_so_and_the_form_stays(page: Page, form):
    field(page, "Prompt").fill("mine")
    upscale = {"upscale": {"widthPixels": 128, "heightPixels": 128, "upscaler": "sharp"}}
    said = {
        "parameters": "Size: 128x128, Postprocess upscale to: 128x128, Postprocess upscaler: sharp",
        "easel": json.dumps({"easel": 1, "parameters": upscale}),
    }
    image = build_file("large.png", build_png(64, 64, **{form: said[form]}))
    page.get_by_label("Settings from an image").set_input_files(image)
    expect(page.locator("#recipe-note")).to_have_text(
        "large.png says nothing of how it was made; it was only enlarged to 128 \u00d7 128 by sharp."
    )
    expect(field(page, "Prompt")).to_have_value("mine")


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
