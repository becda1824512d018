"""What tests do on the playground's page."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
from easel_contract.server_config import EngineConfig, EngineKind, ModelConfig, ServerConfig, SyntheticConfig
from playwright.sync_api import Locator, Page, expect

from tests.support.server_process import ServerProcess

KEY = "a-key-of-alice"
DESKTOP = {"viewport": {"width": 1280, "height": 900}}
PHONE = {"viewport": {"width": 360, "height": 740}}
BEYOND_DOUBLE = "9007199254740993"  # 2^53 + 1: a number of JavaScript's can't hold it


def build_config(**gateway: Any) -> ServerConfig:
    """An image of 512 x 512 takes 0.1 s a step."""
    synthetic = SyntheticConfig(milliseconds_per_step=200, milliseconds_per_image=0)
    return ServerConfig.model_validate(
        {
            "model": ModelConfig(name="test-model", source="test-model"),
            "engine": EngineConfig(kind=EngineKind.SYNTHETIC, synthetic=synthetic),
            "gateway": gateway,
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


def stored(page: Page) -> list[dict[str, Any]]:
    return list(page.evaluate("JSON.parse(localStorage.getItem('easel.history.1') ?? '[]')"))
