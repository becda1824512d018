"""The playground with the real engine: a tiny model with random weights, an adapter, a ControlNet and an upscaler."""

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from easel_contract.add_ons import AdapterConfig, AddOnsConfig, ControlNetConfig, UpscalerConfig
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.inference_server.api.playground.page import (
    DESKTOP,
    await_image,
    build_file,
    build_png,
    button,
    field,
    open_part,
    stored,
)
from tests.inference_server.api.serving import RunningGateway
from tests.support.browser import open_page
from tests.support.tiny_engine import tiny_engine

pytestmark = [pytest.mark.browser, pytest.mark.torch]


@pytest.fixture(scope="module")
def real(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    engine = tiny_engine()  # loads torch
    from tests.support.tiny_models import build_sd15, build_sd15_controlnet  # noqa: PLC0415  # likewise
    from tests.support.tiny_models.adapters import write_lora  # noqa: PLC0415
    from tests.support.tiny_models.upscalers import write_tiny_upscaler  # noqa: PLC0415

    directory = tmp_path_factory.mktemp("add-ons")
    ink = write_lora(directory / "ink.safetensors", build_sd15(), seed=1)
    pipeline: Any = build_sd15_controlnet()
    pipeline.components["controlnet"].save_pretrained(directory / "edges")
    sharp = write_tiny_upscaler(directory / "sharp.safetensors", scale=2)
    add_ons = AddOnsConfig(
        adapters=(AdapterConfig(name="ink", source=str(ink)),),
        control_nets=(ControlNetConfig(name="edges", source=str(directory / "edges")),),
        upscalers=(UpscalerConfig(name="sharp", source=str(sharp)),),
    )
    with RunningGateway(engine=engine, add_ons=add_ons) as gateway:
        gateway.facts = replace(gateway.facts, features=engine.description.features, engine="diffusers")
        yield gateway.url


@pytest.fixture
def page(browser: Browser, real: str) -> Iterator[Page]:
    with open_page(browser, real, **DESKTOP) as opened:
        expect(opened.get_by_text("synthetic engine")).to_be_hidden()
        yield opened


def generate(page: Page, prompt: str) -> None:
    field(page, "Prompt").fill(prompt)
    button(page, "Generate").click()
    await_image(page, prompt)


def begin(page: Page, steps: int) -> None:
    field(page, "Steps").fill(str(steps))
    field(page, "Seed").fill("7")
    open_part(page, "Adapters")
    button(page, "Add").click()
    field(page, "Weight of ink").fill("0.6")


def download(page: Page) -> bytes:
    with page.expect_download() as downloaded:
        page.get_by_role("link", name="Download").click()
    return Path(downloaded.value.path()).read_bytes()


def drop_recipe(page: Page, image: bytes) -> None:
    page.reload()
    page.wait_for_selector("html[data-ready]")
    page.get_by_label("Settings from an image").set_input_files(build_file("mine.png", image))
    expect(page.locator("#recipe-note")).to_contain_text("The settings of mine.png are in the form")


def test_a_second_pass_with_an_adapter_is_made_again_of_its_own_png_to_the_byte(page: Page):
    begin(page, 4)
    open_part(page, "Second pass")
    field(page, "Generate it larger in a second pass (hires fix)").check()
    page.locator("#hires-upscaler").select_option("sharp")
    field(page, "Scale").fill("1.5")
    generate(page, "a mill")
    image = download(page)
    width = int(field(page, "Width").input_value())
    assert Image.open(io.BytesIO(image)).width == width * 3 // 2
    drop_recipe(page, image)
    expect(field(page, "Scale")).to_have_value("1.5")
    expect(page.locator("#hires-upscaler")).to_have_value("sharp")
    expect(field(page, "Weight of ink")).to_have_value("0.6")
    button(page, "Clear").click()
    button(page, "Generate").click()
    await_image(page, "a mill")
    assert download(page) == image


def test_a_control_net_is_made_again_of_a_png_and_its_control_image(page: Page):
    begin(page, 3)
    open_part(page, "ControlNet")
    button(page, "Add a ControlNet").click()
    field(page, "Preprocessor").select_option("canny")
    edges = build_file("edges.png", build_png(96, 96))
    page.get_by_label("Control image", exact=True).set_input_files(edges)
    field(page, "What counts for more").select_option("ControlNet is more important")
    field(page, "To (share of steps)").fill("0.7")
    generate(page, "held")
    image = download(page)
    drop_recipe(page, image)
    expect(field(page, "What counts for more")).to_have_value("ControlNet is more important")
    expect(field(page, "To (share of steps)")).to_have_value("0.7")
    field(page, "Preprocessor").select_option("canny")
    page.get_by_label("Control image", exact=True).set_input_files(edges)
    expect(page.get_by_role("img", name="What the ControlNet sees")).to_be_visible()
    button(page, "Generate").click()
    await_image(page, "held")
    assert download(page) == image


def test_a_result_is_upscaled_by_a_network_and_says_so(page: Page):
    field(page, "Steps").fill("2")
    generate(page, "small")
    expect(page.locator("#upscaler")).to_have_value("sharp")
    small = Image.open(io.BytesIO(download(page)))
    button(page, "Upscale").click()
    expect(page.locator("#facts")).to_contain_text("2 \u00d7 by sharp")
    large = download(page)
    assert Image.open(io.BytesIO(large)).size == (2 * small.width, 2 * small.height)
    page.get_by_label("Settings from an image").set_input_files(build_file("large.png", large))
    size = f"{2 * small.width} \u00d7 {2 * small.height}"
    expect(page.locator("#recipe-note")).to_contain_text(f"it was only enlarged to {size} by sharp")
    assert [bool(entry["input"].get("upscale")) for entry in stored(page)] == [True, False]
