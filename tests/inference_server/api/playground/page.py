"""What tests do on the playground's page."""

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
from easel_contract.add_ons import AdapterConfig, AddOnsConfig, ControlNetConfig, UpscalerConfig
from easel_contract.server_config import EngineConfig, EngineKind, ModelConfig, ServerConfig, SyntheticConfig
from PIL import Image, PngImagePlugin
from playwright.sync_api import FilePayload, Locator, Page, expect

from tests.inference_server.api.serving import wait_for
from tests.support.browser import TIMEOUT_MILLISECONDS
from tests.support.server_process import ServerProcess

KEY = "a-key-of-alice"
DESKTOP = {"viewport": {"width": 1280, "height": 900}}
PHONE = {"viewport": {"width": 360, "height": 740}}
BEYOND_DOUBLE = "9007199254740993"  # 2^53 + 1: a number of JavaScript's can't hold it


ADD_ONS = AddOnsConfig(
    adapters=(
        AdapterConfig(name="ink", source="someone/ink", default_weight=0.7),
        AdapterConfig(name="clay", source="/adapters/clay.safetensors"),
        AdapterConfig(name="other", source="someone/other", models=("another-model",)),
    ),
    control_nets=(
        ControlNetConfig(name="edges", source="someone/edges"),
        ControlNetConfig(name="depth", source="someone/depth"),
    ),
    upscalers=(UpscalerConfig(name="sharp", source="someone/sharp", file="sharp.safetensors"),),
)


def build_config(**gateway: Any) -> ServerConfig:
    """An image of 512 x 512 takes 0.1 s a step."""
    synthetic = SyntheticConfig(milliseconds_per_step=200, milliseconds_per_image=0)
    return ServerConfig.model_validate(
        {
            "model": ModelConfig(name="test-model", source="test-model"),
            "engine": EngineConfig(kind=EngineKind.SYNTHETIC, synthetic=synthetic),
            "gateway": gateway,
            "add_ons": ADD_ONS,
        }
    )


@contextmanager
def serve(**gateway: Any) -> Iterator[str]:
    with ServerProcess(config=build_config(**gateway)) as process:
        yield process.wait_until_ready().url


def field(page: Page, label: str) -> Locator:
    return page.get_by_label(label, exact=True)


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def order(page: Page, prompt: str, *, steps: int) -> None:
    field(page, "Prompt").fill(prompt)
    field(page, "Steps").fill(str(steps))
    button(page, "Generate").click()


def await_image(page: Page, prompt: str) -> None:
    expect(page.get_by_role("img", name=prompt, exact=True)).to_be_visible()


def run_elsewhere(url: str, *, steps: int) -> str:
    """Another client's job, which keeps the worker busy; its id."""
    answer = httpx2.post(f"{url}/v1/predictions", json={"input": {"prompt": "other", "num_inference_steps": steps}})
    return str(answer.json()["id"])


def prediction(url: str, job_id: str) -> dict[str, Any]:
    return dict(httpx2.get(f"{url}/v1/predictions/{job_id}").json())


GALLERY = """() => new Promise((resolve, reject) => {
    const opening = indexedDB.open("easel.gallery");
    opening.onerror = () => reject(opening.error);
    opening.onsuccess = () => {
        const reading = opening.result.transaction("entries").objectStore("entries").getAll();
        reading.onsuccess = () => {
            opening.result.close();
            resolve(reading.result.sort((one, other) => other.at - one.at));
        };
    };
})"""


def stored(page: Page) -> list[dict[str, Any]]:
    """What the gallery keeps, the newest first."""
    return list(page.evaluate(GALLERY))


def await_kept(page: Page) -> None:
    """Until the newest one's images are kept. Playwright's own wait evaluates strings, which the page forbids."""
    wait_for(lambda: stored(page)[0]["bytes"] > 0, TIMEOUT_MILLISECONDS / 1000)


FORGET_IMAGES = """() => new Promise((resolve) => {
    const opening = indexedDB.open("easel.gallery");
    opening.onsuccess = () => {
        const changing = opening.result.transaction("images", "readwrite");
        changing.objectStore("images").clear();
        changing.oncomplete = () => { opening.result.close(); resolve(); };
    };
})"""


def build_png(width: int, height: int, color: str = "teal", **texts: str) -> bytes:
    """A picture of one colour, which says what ``texts`` do."""
    info = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), color).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def build_file(name: str, content: bytes) -> FilePayload:
    return {"name": name, "mimeType": "image/png", "buffer": content}


TRANSFER = """([element, kind, name, encoded]) => {
    const bytes = Uint8Array.from(atob(encoded), (character) => character.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, { type: "image/png" }));
    const options = { bubbles: true, cancelable: true };
    element.dispatchEvent(kind === "paste"
        ? new ClipboardEvent("paste", { ...options, clipboardData: transfer })
        : new DragEvent("drop", { ...options, dataTransfer: transfer }));
}"""


def hand_over(target: Locator, kind: str, name: str, content: bytes) -> None:
    """Drop a file on an element, or paste it there: ``kind`` is the event."""
    encoded = base64.b64encode(content).decode()
    target.evaluate(f"(element, rest) => ({TRANSFER})([element, ...rest])", [kind, name, encoded])


def open_part(page: Page, title: str) -> None:
    """Unfold a part of the form."""
    page.locator("summary", has_text=title).click()
