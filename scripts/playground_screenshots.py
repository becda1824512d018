"""Takes the playground's screenshots under docs/: python -m scripts.playground_screenshots (needs Chromium)."""

import io
from pathlib import Path

from easel_contract.add_ons import AdapterConfig, AddOnsConfig, ControlNetConfig, UpscalerConfig
from easel_contract.server_config import EngineConfig, EngineKind, ModelConfig, ServerConfig, SyntheticConfig
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, FilePayload, Page

from tests.support.browser import launch_chromium, open_page
from tests.support.server_process import ServerProcess

DOCS = Path(__file__).parents[1] / "docs/developers"
PROMPTS = (
    "A harbour in fog, charcoal",
    "Orchard in blossom, gouache",
    "A lighthouse at dawn, oil on canvas, heavy brush strokes",
)
FINER = 4  # the scene is painted so many times larger than it is shown, for smooth edges
SCENE = (768, 512)  # pixels
HORIZON = 300
DESKTOP, PHONE = 1280, 360  # wide, in pixels
ADD_ONS = AddOnsConfig(
    adapters=(
        AdapterConfig(name="ink-wash", source="studio/ink-wash", default_weight=0.7),
        AdapterConfig(name="soft-light", source="studio/soft-light"),
    ),
    control_nets=(
        ControlNetConfig(name="canny", source="studio/controlnet-canny"),
        ControlNetConfig(name="depth", source="studio/controlnet-depth"),
    ),
    upscalers=(UpscalerConfig(name="sharp-x4", source="studio/sharp-x4", file="sharp.safetensors"),),
)


def main() -> None:
    """Write docs/developers/playground-NAME.png: desktop (with a second pass, then upscaled), phone (dark, under way),
    and on both an input image with its mask and adapters (tools), and ControlNet with what it sees (control)."""
    config = ServerConfig(
        model=ModelConfig(name="stable-diffusion-v1-5", source="stable-diffusion-v1-5"),
        add_ons=ADD_ONS,
        engine=EngineConfig(kind=EngineKind.SYNTHETIC, synthetic=SyntheticConfig(milliseconds_per_step=100)),
    )
    scene: FilePayload = {"name": "harbour.png", "mimeType": "image/png", "buffer": draw_harbour()}
    with ServerProcess(config=config) as server, launch_chromium() as browser:
        url = server.wait_until_ready().url
        take_desktop(browser, url)
        take_phone(browser, url)
        for suffix, width in (("", DESKTOP), ("-phone", PHONE)):
            take_tools(browser, url, DOCS / f"playground-tools{suffix}.png", width, scene)
            take_control(browser, url, DOCS / f"playground-control{suffix}.png", width, scene)


def draw_harbour() -> bytes:
    """A PNG of a lighthouse over the sea: something to begin with, painted here."""
    width, height = (side * FINER for side in SCENE)
    horizon = HORIZON * FINER
    image = Image.new("RGB", (width, height))
    canvas = ImageDraw.Draw(image)
    for y in range(height):
        share = y / horizon if y < horizon else (y - horizon) / (height - horizon)
        ends = ((96, 138, 178), (250, 208, 160)) if y < horizon else ((205, 168, 142), (34, 66, 96))
        canvas.line((0, y, width, y), tuple(round(a + (b - a) * share) for a, b in zip(*ends, strict=True)))

    def at(*points: float) -> list[float]:
        return [point * FINER for point in points]

    canvas.ellipse(at(214, 232, 298, 316), (255, 236, 190))
    canvas.rectangle(at(0, HORIZON, 420, HORIZON + 40), (196, 158, 136))
    canvas.polygon(at(0, 300, 90, 262, 190, 292, 300, 270, 420, 300), (120, 112, 132))
    for number in range(9):  # the sun on the water
        half = 44 - 3 * number
        canvas.rectangle(at(256 - half, 314 + 20 * number, 256 + half, 319 + 20 * number), (250, 214, 168))
    canvas.polygon(at(430, 512, 470, 392, 540, 352, 668, 342, 768, 372, 768, 512), (58, 54, 58))
    canvas.polygon(at(572, 350, 590, 132, 646, 132, 664, 350), (238, 234, 224))
    for top, bottom in ((180, 222), (268, 310)):
        left, right = ([590 - (y - 132) * 18 / 218, 646 + (y - 132) * 18 / 218] for y in (top, bottom))
        canvas.polygon(at(left[0], top, left[1], top, right[1], bottom, right[0], bottom), (178, 52, 42))
    canvas.rectangle(at(580, 122, 656, 134), (52, 50, 56))
    canvas.rectangle(at(598, 88, 638, 122), (255, 232, 150))
    canvas.polygon(at(590, 90, 618, 58, 646, 90), (150, 44, 38))
    canvas.polygon(at(96, 424, 250, 424, 224, 456, 120, 456), (60, 40, 36))
    canvas.line(at(170, 424, 170, 322), (60, 40, 36), 4 * FINER)
    canvas.polygon(at(176, 326, 176, 416, 240, 416), (244, 238, 226))
    canvas.polygon(at(164, 340, 164, 416, 112, 416), (226, 214, 196))
    buffer = io.BytesIO()
    image.resize(SCENE, Image.Resampling.LANCZOS).save(buffer, "PNG")
    return buffer.getvalue()


def take_desktop(browser: Browser, url: str) -> None:
    """An image with a second pass, made larger, and those before it."""
    with open_page(browser, url, viewport={"width": DESKTOP, "height": 1000}, device_scale_factor=2) as page:
        open_part(page, "Second pass")
        for seed, prompt in enumerate(PROMPTS, start=2026):
            if prompt == PROMPTS[-1]:
                page.get_by_label("Generate it larger in a second pass (hires fix)").check()
                page.get_by_label("Scale", exact=True).fill("1.5")
            finish(page, prompt, seed)
        page.get_by_role("button", name="Upscale", exact=True).click()
        page.locator("#facts").get_by_text("2 \u00d7 by sharp-x4").wait_for()
        page.mouse.move(0, 0)
        page.locator("#history img").nth(len(PROMPTS)).wait_for()
        page.screenshot(path=DOCS / "playground-desktop.png", full_page=True)


def take_phone(browser: Browser, url: str) -> None:
    """An image under way, with its preview."""
    viewport = {"width": PHONE, "height": 780}
    dark = {"color_scheme": "dark", "reduced_motion": "reduce"}  # a preview is faded in otherwise
    with open_page(browser, url, viewport=viewport, device_scale_factor=2, **dark) as page:
        order(page, PROMPTS[-1], 2029)
        page.get_by_alt_text("Unfinished image").wait_for()
        page.screenshot(path=DOCS / "playground-phone.png", full_page=True)


def take_tools(browser: Browser, url: str, file: Path, width_pixels: int, scene: FilePayload) -> None:
    """An input image with a mask on its boat, and an adapter with its weight."""
    with open_page(browser, url, viewport={"width": width_pixels, "height": 900}, device_scale_factor=2) as page:
        page.locator("#more").evaluate("(details) => { details.open = false; }")
        open_part(page, "Input image")
        page.get_by_label("Input image", exact=True).set_input_files(scene)
        mask = page.get_by_role("application", name="Mask over the input image")
        mask.focus()
        page.get_by_label("Brush size, in percent", exact=True).fill("40")
        for key in [*["ArrowLeft"] * 4, *["ArrowDown"] * 3, " "]:
            mask.press(key)
        open_part(page, "Adapters")
        page.get_by_role("button", name="Add", exact=True).click()
        finish(page, "The same harbour with a red boat", 2030, file)


def take_control(browser: Browser, url: str, file: Path, width_pixels: int, scene: FilePayload) -> None:
    """A ControlNet and what it sees."""
    with open_page(browser, url, viewport={"width": width_pixels, "height": 900}, device_scale_factor=2) as page:
        page.locator("#more").evaluate("(details) => { details.open = false; }")
        open_part(page, "ControlNet")
        page.get_by_role("button", name="Add a ControlNet").click()
        page.get_by_label("Preprocessor", exact=True).select_option("canny")
        page.get_by_label("Control image", exact=True).set_input_files(scene)
        page.get_by_role("img", name="What the ControlNet sees").wait_for()
        finish(page, "The same lighthouse in winter, linocut", 2031, file)


def open_part(page: Page, title: str) -> None:
    """Unfold a part of the form."""
    page.locator("summary", has_text=title).click()


def finish(page: Page, prompt: str, seed: int, file: Path | None = None) -> None:
    """Ask for an image and wait for it; with a file, then take the page."""
    order(page, prompt, seed)
    page.get_by_role("img", name=prompt, exact=True).wait_for()
    page.mouse.move(0, 0)
    if file is not None:
        page.screenshot(path=file, full_page=True)


def order(page: Page, prompt: str, seed: int) -> None:
    """Ask for one image."""
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.locator("#seed").evaluate("(field, value) => { field.value = value; }", str(seed))
    page.get_by_role("button", name="Generate").click()


if __name__ == "__main__":
    main()
