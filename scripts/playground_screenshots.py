"""Takes the playground's screenshots under docs/: python -m scripts.playground_screenshots (needs Chromium)."""

from pathlib import Path

from easel_contract.add_ons import AdapterConfig, AddOnsConfig
from easel_contract.server_config import EngineConfig, EngineKind, ModelConfig, ServerConfig, SyntheticConfig
from playwright.sync_api import Browser, Page

from tests.support.browser import launch_chromium, open_page
from tests.support.server_process import ServerProcess

DOCS = Path(__file__).parents[1] / "docs"
PROMPTS = (
    "A harbour in fog, charcoal",
    "Orchard in blossom, gouache",
    "A lighthouse at dawn, oil on canvas, heavy brush strokes",
)


def main() -> None:
    """Write docs/playground-desktop.png (a finished image), -phone.png (dark, under way), -tools.png, -tools-phone.png
    (an input image with its mask, and adapters)."""
    config = ServerConfig(
        model=ModelConfig(name="stable-diffusion-v1-5", source="stable-diffusion-v1-5"),
        add_ons=AddOnsConfig(
            adapters=(
                AdapterConfig(name="ink-wash", source="studio/ink-wash", default_weight=0.7),
                AdapterConfig(name="soft-light", source="studio/soft-light"),
            )
        ),
        engine=EngineConfig(kind=EngineKind.SYNTHETIC, synthetic=SyntheticConfig(milliseconds_per_step=100)),
    )
    with ServerProcess(config=config) as server, launch_chromium() as browser:
        url = server.wait_until_ready().url
        take_desktop(browser, url)
        take_phone(browser, url)
        for name, width in (("tools", 1280), ("tools-phone", 360)):
            take_tools(browser, url, DOCS / f"playground-{name}.png", width)


def take_desktop(browser: Browser, url: str) -> None:
    """A finished image and those before it."""
    with open_page(browser, url, viewport={"width": 1280, "height": 1000}, device_scale_factor=2) as page:
        for seed, prompt in enumerate(PROMPTS, start=2026):
            order(page, prompt, seed)
            page.get_by_role("img", name=prompt, exact=True).wait_for()
        page.mouse.move(0, 0)
        page.locator("#history img").nth(len(PROMPTS) - 1).wait_for()
        page.screenshot(path=DOCS / "playground-desktop.png", full_page=True)


def take_phone(browser: Browser, url: str) -> None:
    """An image under way, with its preview."""
    viewport = {"width": 360, "height": 780}
    dark = {"color_scheme": "dark", "reduced_motion": "reduce"}  # a preview is faded in otherwise
    with open_page(browser, url, viewport=viewport, device_scale_factor=2, **dark) as page:
        order(page, PROMPTS[-1], 2029)
        page.get_by_alt_text("Unfinished image").wait_for()
        page.screenshot(path=DOCS / "playground-phone.png", full_page=True)


def take_tools(browser: Browser, url: str, file: Path, width_pixels: int) -> None:
    """An input image with a mask on it, and an adapter with its weight."""
    with open_page(browser, url, viewport={"width": width_pixels, "height": 900}, device_scale_factor=2) as page:
        page.locator("#more").evaluate("(details) => { details.open = false; }")
        page.get_by_label("Prompt", exact=True).fill("The same harbour with a red boat")
        page.locator("summary", has_text="Input image").click()
        page.get_by_label("Input image", exact=True).set_input_files(DOCS / "demo.png")
        mask = page.get_by_role("application", name="Mask over the input image")
        mask.focus()
        for key in [" ", *["Shift+ArrowRight"] * 6, *["Shift+ArrowDown"] * 3]:
            mask.press(key)
        page.locator("summary", has_text="Adapters").click()
        page.get_by_role("button", name="Add", exact=True).click()
        page.screenshot(path=file, full_page=True)


def order(page: Page, prompt: str, seed: int) -> None:
    """Ask for one image."""
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.locator("#seed").evaluate("(field, value) => { field.value = value; }", str(seed))
    page.get_by_role("button", name="Generate").click()


if __name__ == "__main__":
    main()
