"""Strange files, drops and pastes on the playground."""

import io
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from tests.inference_server.api.playground.page import (
    await_image,
    build_file,
    build_png,
    field,
    open_part,
    order,
    stored,
)
from tests.inference_server.api.serving import wait_for

pytestmark = pytest.mark.browser

MEBIBYTE = 1 << 20


def input_image(page: Page) -> Locator:
    return page.get_by_label("Input image", exact=True)


HAND_OVER = """(element, [kind, name, type, text]) => {
    const transfer = new DataTransfer();
    if (name) transfer.items.add(new File([new Uint8Array([0, 0, 0, 24, 102, 116, 121, 112])], name, { type }));
    if (text) transfer.setData("text/plain", text);
    const options = { bubbles: true, cancelable: true };
    const event = kind === "paste"
        ? new ClipboardEvent("paste", { ...options, clipboardData: transfer })
        : new DragEvent(kind, { ...options, dataTransfer: transfer });
    return element.dispatchEvent(event);
}"""


@pytest.mark.parametrize(
    ("name", "kind"), [("photo.heic", "image/heic"), ("notes.txt", "text/plain"), ("photo.HEIC", "")]
)
def test_a_dropped_file_that_is_no_image_of_the_web_is_said_so_wherever_it_lands(page: Page, name, kind):
    open_part(page, "Input image")
    for place in ("#stage", ".image-field"):
        page.locator(place).first.evaluate(HAND_OVER, ["drop", name, kind, ""])
        expect(page.locator("#image-note")).to_have_text(
            f"{name} can\u2019t be read as an image. Choose a PNG, JPEG or WebP."
        )
        page.locator("#image-note").evaluate("(note) => { note.textContent = ''; }")


def test_a_drop_without_a_file_is_said_so_and_the_page_stays(page: Page):
    open_part(page, "Input image")
    assert not page.locator("#stage").evaluate(HAND_OVER, ["drop", "", "", "https://example.com/cat.png"])
    expect(page.locator("#recipe-note")).to_contain_text("Nothing of it is a file: save the image first")
    page.locator(".image-field").evaluate(HAND_OVER, ["drop", "", "", "https://example.com/cat.png"])
    expect(page.locator("#image-note")).to_contain_text("Nothing of it is a file")


def test_a_text_is_dropped_and_pasted_into_the_prompt_as_anywhere(page: Page):
    prompt = field(page, "Prompt")
    assert prompt.evaluate(HAND_OVER, ["drop", "", "", "a kite"])  # true: left to the browser
    assert prompt.evaluate(HAND_OVER, ["dragover", "", "", "a kite"])
    assert prompt.evaluate(HAND_OVER, ["paste", "", "", "a kite"])
    # An office program's clipboard: the text, and an image of it.
    assert prompt.evaluate(HAND_OVER, ["paste", "image.png", "image/png", "a kite"])
    assert not prompt.evaluate(HAND_OVER, ["paste", "image.png", "image/png", ""])
    expect(page.locator("#image-note")).to_contain_text("image.png can\u2019t be read")


def test_a_huge_file_is_refused_before_it_is_read_or_sent(page: Page):
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.locator("#stage").evaluate(
        """(element, bytes) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "huge.jpg", { type: "image/jpeg" }));
            element.dispatchEvent(new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: transfer }));
        }""",
        70 * MEBIBYTE,
    )
    expect(page.locator("#image-note")).to_have_text("huge.jpg has 70.0 MiB; at most 64.0 MiB are read here.")
    expect(page.locator("#recipe-note")).to_contain_text("huge.jpg can\u2019t be read: it has 70.0 MiB, at most")
    assert asked == []


def test_an_image_of_more_pixels_than_fit_into_memory_is_refused_and_the_page_goes_on(page: Page):
    buffer = io.BytesIO()
    Image.new("1", (40_000, 40_000)).save(buffer, "PNG")
    open_part(page, "Input image")
    input_image(page).set_input_files(build_file("bomb.png", buffer.getvalue()))
    expect(page.locator("#image-note")).to_have_text(
        "bomb.png has 40000 \u00d7 40000 pixels; at most 268 megapixels are read here."
    )
    order(page, "still there", steps=1)
    await_image(page, "still there")


def test_a_photo_that_lies_on_its_side_is_upright_with_its_mask_and_in_the_request(page: Page):
    photo, buffer = Image.new("RGB", (128, 64), "teal"), io.BytesIO()
    exif = photo.getexif()
    exif[0x0112] = 6  # https://www.cipa.jp/std/documents/e/DC-008-2012_E.pdf: to be turned by 90 degrees
    photo.save(buffer, "JPEG", exif=exif)
    open_part(page, "Input image")
    payload: Any = {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": buffer.getvalue()}
    input_image(page).set_input_files(payload)
    expect(page.get_by_text("photo.jpg, 64 \u00d7 128")).to_be_visible()
    assert (field(page, "Width").input_value(), field(page, "Height").input_value()) == ("64", "128")
    page.get_by_role("application", name="Mask over the input image").press(" ")
    order(page, "upright", steps=2)
    await_image(page, "upright")
    expect(page.locator("#facts")).to_contain_text("64 \u00d7 128")


HELD_IMAGES = """() => {
    const real = globalThis.createImageBitmap;
    globalThis.held = [];
    globalThis.createImageBitmap = (...given) => new Promise((resolve, reject) =>
        globalThis.held.push(() => real(...given).then(resolve, reject)));
    globalThis.letGo = () => { globalThis.createImageBitmap = real; held.forEach((go) => go()); };
}"""


def test_nothing_is_sent_while_an_image_is_still_being_read(page: Page):
    open_part(page, "Input image")
    page.evaluate(HELD_IMAGES)
    input_image(page).set_input_files(build_file("slow.png", build_png(64, 64)))
    expect(page.locator("#image-note")).to_have_text("Reading\u2026")
    order(page, "in a hurry", steps=2)
    expect(page.locator("#image-error")).to_have_text("Input image is still being read; try again in a moment")
    assert stored(page) == []
    page.evaluate("letGo()")
    expect(page.get_by_role("img", name="slow.png", exact=True)).to_be_visible()


def test_the_last_of_two_files_counts_however_long_the_first_is_read(page: Page):
    open_part(page, "Input image")
    page.evaluate(HELD_IMAGES)
    input_image(page).set_input_files(build_file("first.png", build_png(64, 64)))
    wait_for(lambda: page.evaluate("held.length") == 1, 30)
    page.evaluate("const [first] = held; held.length = 0; globalThis.first = first;")
    input_image(page).set_input_files(build_file("second.png", build_png(128, 64)))
    wait_for(lambda: page.evaluate("held.length") == 1, 30)
    page.evaluate("letGo()")
    expect(page.get_by_role("img", name="second.png", exact=True)).to_be_visible()
    page.evaluate("first()")
    order(page, "which", steps=2)
    await_image(page, "which")
    expect(page.locator("#image-place figcaption")).to_have_text("second.png, 128 \u00d7 64")
