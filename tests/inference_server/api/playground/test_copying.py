"""What the playground copies as curl and as Python does the same elsewhere."""

import re
import shlex
import subprocess
import sys
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.inference_server.api.playground.page import BEYOND_DOUBLE, DESKTOP, KEY, button, field, prediction, serve
from tests.support.browser import open_page

pytestmark = pytest.mark.browser


# A prompt that every kind of quoting gets wrong in its own way.
PROMPT = """it's "quoted", $(touch pwned) `id` $HOME \\n \\\\ %s {x} 夜明け 🌅 </script> & !!
second line"""


def copied(page: Page, name: str) -> str:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    button(page, name).click()
    expect(button(page, "Copied")).to_be_visible()
    return str(page.evaluate("navigator.clipboard.readText()"))


def fill_awkwardly(page: Page) -> None:
    field(page, "Prompt").fill(PROMPT)
    field(page, "Negative prompt").fill("'; rm -rf * #")
    field(page, "Seed").fill(BEYOND_DOUBLE)
    field(page, "Steps").fill("1")
    field(page, "Images").fill("2")
    field(page, "Format").select_option("webp")


def assert_awkward(input_: dict[str, Any]) -> None:
    assert input_["prompt"] == PROMPT
    assert input_["negative_prompt"] == "'; rm -rf * #"
    assert input_["seed"] == int(BEYOND_DOUBLE)
    assert (input_["num_inference_steps"], input_["num_outputs"], input_["output_format"]) == (1, 2, "webp")


def test_what_is_copied_as_curl_does_the_same_in_a_shell(page: Page, tmp_path):
    fill_awkwardly(page)
    done = subprocess.run(
        ["sh", "-c", copied(page, "Copy as curl")], cwd=tmp_path, check=True, capture_output=True, timeout=60
    )
    answer = httpx2.Response(200, content=done.stdout).json()
    assert answer["status"] == "succeeded"
    assert_awkward(answer["input"])
    assert list(tmp_path.iterdir()) == []


def test_what_is_copied_as_python_saves_the_images(page: Page, url: str, tmp_path):
    fill_awkwardly(page)
    program = copied(page, "Copy as Python")
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True, timeout=60
    )
    files = done.stdout.split()
    assert sorted(files) == sorted(path.name for path in tmp_path.iterdir())
    assert len(files) == 2
    assert (tmp_path / files[0]).read_bytes()[8:12] == b"WEBP"
    assert_awkward(prediction(url, files[0].removesuffix("-0.webp"))["input"])


def test_what_is_copied_takes_the_key_from_the_environment(browser: Browser, tmp_path):
    (tmp_path / "alice").write_text(KEY)
    with serve(api_keys_directory=str(tmp_path)) as url, open_page(browser, url, **DESKTOP) as page:
        field(page, "API key").fill(KEY)
        field(page, "Prompt").fill("mine")
        field(page, "Steps").fill("1")
        for name, program in (("Copy as curl", ["sh", "-c"]), ("Copy as Python", [sys.executable, "-c"])):
            text = copied(page, name)
            assert KEY not in text
            environment = {"EASEL_API_KEY": KEY, "PATH": "/usr/bin:/bin"}
            done = subprocess.run(
                [*program, text], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
            )
            assert done.returncode == 0, (shlex.join(program), done.stderr)
            assert "succeeded" in done.stdout or ".png" in done.stdout
            expect(button(page, name)).to_be_visible()


def test_it_is_copied_too_where_the_browser_has_no_clipboard_for_pages(browser: Browser, url: str):
    with open_page(browser, url, **DESKTOP) as page:
        page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
        field(page, "Prompt").fill("a kite")
        button(page, "Copy as curl").click()
        expect(button(page, "Copied")).to_be_focused()
        field(page, "Negative prompt").focus()
        page.keyboard.press("Control+V")
        expect(field(page, "Negative prompt")).to_have_value(re.compile('curl .*"prompt": "a kite"', re.DOTALL))
