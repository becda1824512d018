"""The playground in a real Chromium, against a real server with the synthetic engine."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from easel_contract.server_config import EngineConfig, EngineKind, ModelConfig, ServerConfig, SyntheticConfig
from playwright.sync_api import Browser, Locator, Page, Route, expect

from tests.inference_server.http.serving import RunningGateway, wait_for
from tests.support.browser import TIMEOUT_MILLISECONDS, launch_chromium, open_page
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.browser

KEY = "a-key-of-alice"
DESKTOP = {"viewport": {"width": 1280, "height": 900}}
PHONE = {"viewport": {"width": 360, "height": 740}}
# A prompt that every kind of quoting gets wrong in its own way.
PROMPT = """it's "quoted", $(touch pwned) `id` $HOME \\n \\\\ %s {x} 夜明け 🌅 </script> & !!
second line"""
BEYOND_DOUBLE = "9007199254740993"  # 2^53 + 1: a number of JavaScript's can't hold it

expect.set_options(timeout=TIMEOUT_MILLISECONDS)


def build_config(**gateway: Any) -> ServerConfig:
    """A picture of 512 x 512 takes 0.1 s a step."""
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


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serve() as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launch_chromium() as chromium:
        yield chromium


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    with open_page(browser, url, **DESKTOP) as opened:
        yield opened


def field(page: Page, label: str) -> Locator:
    return page.get_by_label(label, exact=True)


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def order(page: Page, prompt: str, *, steps: int) -> None:
    field(page, "Prompt").fill(prompt)
    field(page, "Steps").fill(str(steps))
    button(page, "Generate").click()


def await_picture(page: Page, prompt: str) -> None:
    expect(page.get_by_role("img", name=prompt, exact=True)).to_be_visible()


def run_elsewhere(url: str, *, steps: int) -> str:
    """Another client's job, which keeps the worker busy; its id."""
    answer = httpx.post(f"{url}/v1/predictions", json={"input": {"prompt": "other", "num_inference_steps": steps}})
    return str(answer.json()["id"])


def prediction(url: str, job_id: str) -> dict[str, Any]:
    return dict(httpx.get(f"{url}/v1/predictions/{job_id}").json())


def stored(page: Page) -> list[dict[str, Any]]:
    return list(page.evaluate("JSON.parse(localStorage.getItem('easel.history.1') ?? '[]')"))


def test_a_picture_is_drawn_while_its_progress_and_a_preview_are_shown(page: Page, url: str):
    expect(page.locator("#model")).to_have_text("test-model")
    expect(page.get_by_text("synthetic engine")).to_be_visible()
    order(page, "a lighthouse", steps=30)
    expect(page.locator("#progress-text")).to_have_text(re.compile(r"Step \d+ of 30 · about \d+ s left"))
    expect(page.get_by_role("progressbar")).to_have_attribute("max", "30")
    expect(page.get_by_alt_text("Unfinished picture")).to_be_visible()
    assert page.evaluate("document.querySelector('#canvas img').naturalWidth") > 0
    await_picture(page, "a lighthouse")
    assert page.evaluate("document.querySelector('#canvas img').naturalWidth") == 512
    expect(page.locator("#announcement")).to_have_text(re.compile(r"Finished: 1 picture, seed \d+"))
    expect(page.get_by_role("progressbar")).to_be_hidden()
    (entry,) = stored(page)
    assert str(prediction(url, entry["id"])["input"]["seed"]) == entry["input"]["seed"]


def test_a_job_that_waits_shows_its_place_in_the_queue(page: Page, url: str):
    others = [run_elsewhere(url, steps=100), run_elsewhere(url, steps=100)]
    order(page, "patience", steps=2)
    expect(page.locator("#progress-text")).to_have_text(
        re.compile(r"Number 2 in the queue · 1 ahead · about \d+ (s|min) left")
    )
    expect(page.locator("#announcement")).to_contain_text("1 ahead")
    for other in others:
        httpx.post(f"{url}/v1/predictions/{other}/cancel")
    await_picture(page, "patience")


def test_cancel_ends_the_job_and_leads_back_to_the_form(page: Page, url: str):
    order(page, "never mind", steps=100)
    expect(page.locator("#progress-text")).to_contain_text("Step")
    button(page, "Cancel").click()
    expect(page.locator("#canvas")).to_have_text("Cancelled.")
    expect(button(page, "Generate")).to_be_focused()
    (entry,) = stored(page)
    assert prediction(url, entry["id"])["status"] == entry["status"] == "canceled"


@pytest.mark.parametrize(
    ("label", "value", "message"),
    [
        ("Width", "4000", "Width is 4000 pixels, allowed is a multiple of 8 from 64 to 2048"),
        ("Height", "100", "Height is 100 pixels, allowed is a multiple of 8 from 64 to 2048"),
        ("Steps", "101", "Steps is 101, allowed are 1 to 100"),
        ("Images", "0", "Images is 0, allowed are 1 to 4"),
        ("Seed", "-1", "Seed is -1, allowed are 0 to 9223372036854775807"),
        ("Seed", "lucky", 'Seed is "lucky", which is no whole number'),
    ],
)
def test_an_error_is_shown_beside_the_field_that_it_concerns(page: Page, label, value, message):
    field(page, "Prompt").fill("a boat")
    field(page, label).fill(value)
    button(page, "Generate").click()
    control = field(page, label)
    expect(control).to_be_focused()
    expect(control).to_have_attribute("aria-invalid", "true")
    expect(control).to_have_accessible_description(re.compile(re.escape(message)))
    expect(page.get_by_text(message)).to_be_visible()
    control.fill("64")
    expect(control).not_to_have_attribute("aria-invalid", "true")
    assert stored(page) == []


def test_an_empty_prompt_is_refused_beside_it(page: Page):
    button(page, "Generate").click()
    expect(field(page, "Prompt")).to_be_focused()
    expect(page.get_by_text("Prompt has 0 characters, allowed are 1 to 4000")).to_be_visible()


def test_a_job_that_fails_says_why(browser: Browser, gateway: RunningGateway):
    with open_page(browser, gateway.url, **DESKTOP) as page:
        order(page, "fail", steps=1)
        expect(page.get_by_role("alert").filter(has_text="the model refused the request: no")).to_be_visible()
        expect(page.get_by_role("list").get_by_role("button", name="fail Failed")).to_be_visible()
        assert button(page, "Generate").get_attribute("aria-disabled") is None


def test_a_picture_that_the_service_has_is_there_at_once(page: Page):
    field(page, "Seed").fill("7")
    for count in (1, 2):
        order(page, "known", steps=3)
        # Before the picture, which may still be the first one's.
        expect(page.get_by_role("list").get_by_role("button", name="known Seed 7")).to_have_count(count)
        await_picture(page, "known")
    first, second = stored(page)
    assert first["id"] != second["id"]
    expect(page.locator("#announcement")).to_have_text("Finished: 1 picture, seed 7")


def test_a_picture_that_the_service_has_forgotten_can_be_drawn_again(page: Page):
    order(page, "fleeting", steps=1)
    await_picture(page, "fleeting")
    seed = stored(page)[0]["input"]["seed"]
    page.route("**/output/0", lambda route: route.fulfill(status=404, json={"detail": "its result has expired"}))
    page.reload()
    page.get_by_role("list").get_by_role("button", name=f"fleeting Seed {seed}").click()
    expect(page.locator("#canvas")).to_contain_text("The service has forgotten this picture")
    page.unroute("**/output/0")
    expect(field(page, "Seed")).to_have_value(seed)
    button(page, "Generate").click()
    await_picture(page, "fleeting")


def test_a_service_that_is_away_is_said_so_and_the_next_attempt_goes_through(page: Page):
    page.route("**/v1/predictions", lambda route: route.abort())
    order(page, "hello", steps=1)
    expect(page.get_by_role("alert").filter(has_text="be reached")).to_be_visible()
    page.unroute("**/v1/predictions")
    button(page, "Generate").click()
    await_picture(page, "hello")
    expect(page.get_by_role("alert").filter(has_text="be reached")).to_be_hidden()


def test_a_stream_that_breaks_is_taken_up_again(page: Page):
    breaks = 2

    def break_or_go_on(route: Any) -> None:
        nonlocal breaks
        breaks -= 1
        route.abort() if breaks >= 0 else route.continue_()

    page.route("**/stream?progress=true", break_or_go_on)
    order(page, "steady", steps=5)
    await_picture(page, "steady")
    assert breaks < 0


def test_a_key_is_asked_for_sent_as_a_header_and_kept_in_the_tab_only(browser: Browser, tmp_path):
    (tmp_path / "alice").write_text(KEY)
    with serve(api_keys_directory=str(tmp_path)) as url, open_page(browser, url, **DESKTOP) as page:
        addresses: list[str] = []
        page.on("request", lambda request: addresses.append(request.url))
        order(page, "mine", steps=1)
        expect(field(page, "API key")).to_be_focused()
        expect(field(page, "API key")).to_have_accessible_description(re.compile("Enter an API key"))
        field(page, "API key").fill("wrong")
        button(page, "Generate").click()
        expect(page.get_by_text("The API key is not known")).to_be_visible()
        expect(field(page, "API key")).to_have_attribute("type", "password")
        field(page, "API key").fill(KEY)
        button(page, "Generate").click()
        await_picture(page, "mine")
        page.reload()
        page.wait_for_selector("html[data-ready]")
        expect(field(page, "API key")).to_have_value(KEY)
        assert KEY not in str(page.evaluate("JSON.stringify(localStorage)")) + page.url + "".join(addresses)
        button(page, "Forget").click()
        expect(field(page, "API key")).to_have_value("")
        assert page.evaluate("JSON.stringify(sessionStorage)") == "{}"


def test_the_history_survives_a_reload_and_its_settings_can_be_used_again(page: Page):
    field(page, "Seed").fill(BEYOND_DOUBLE)
    field(page, "Width").fill("128")
    field(page, "Negative prompt").fill("fog")
    field(page, "Sampler").select_option("Euler a")
    order(page, "a harbour", steps=2)
    await_picture(page, "a harbour")
    expect(page.locator("#history img")).to_be_visible()
    page.reload()
    page.wait_for_selector("html[data-ready]")
    expect(field(page, "Seed")).to_have_value("")
    page.get_by_role("list").get_by_role("button", name=f"a harbour Seed {BEYOND_DOUBLE}").click()
    await_picture(page, "a harbour")
    button(page, "Use these settings").click()
    expect(field(page, "Prompt")).to_be_focused()
    for label, value in {
        "Prompt": "a harbour",
        "Negative prompt": "fog",
        "Seed": BEYOND_DOUBLE,
        "Width": "128",
        "Height": "512",
        "Steps": "2",
        "Sampler": "Euler a",
    }.items():
        expect(field(page, label)).to_have_value(value)
    button(page, "Clear").click()
    assert stored(page) == []


def test_the_history_is_bounded_and_outlives_a_full_or_broken_storage(page: Page):
    page.evaluate("""() => {
        const input = { prompt: "old", seed: "1" };
        const entries = Array.from({ length: 50 }, (_, index) => ({ id: `old-${index}`, status: "succeeded", input }));
        localStorage.setItem("easel.history.1", JSON.stringify(entries));
    }""")
    page.evaluate("localStorage.setItem('other', 'x'.repeat(5_100_000 - localStorage['easel.history.1'].length))")
    page.reload()
    order(page, "the newest", steps=1)
    await_picture(page, "the newest")
    # The picture may be seen before the page has made room for it in its storage.
    page.wait_for_function("""() => {
        const entries = JSON.parse(localStorage.getItem("easel.history.1"));
        return entries.length === 24 && entries[0].input.prompt === "the newest";
    }""")
    page.evaluate("localStorage.setItem('easel.history.1', '{not json')")
    page.reload()
    order(page, "after all", steps=1)
    await_picture(page, "after all")


def test_what_is_typed_while_the_page_still_loads_is_kept_and_drawn(page: Page):
    held: list[Route] = []

    def hold(route: Route) -> None:  # Playwright marks its handlers, which a built-in method can't bear
        held.append(route)

    page.route("**/playground/config", hold)
    with page.expect_request("**/playground/config"):
        page.reload(wait_until="commit")
    field(page, "Prompt").fill("in a hurry")
    field(page, "Steps").fill("1")
    with page.expect_response("**/playground/config"):
        held[0].continue_()
    page.wait_for_selector("html[data-ready]")
    expect(field(page, "Prompt")).to_have_value("in a hurry")
    expect(field(page, "Width")).to_have_value("512")
    button(page, "Generate").click()
    await_picture(page, "in a hurry")
    assert stored(page)[0]["input"]["num_inference_steps"] == 1


def test_two_tabs_share_one_history(page: Page, url: str):
    other = page.context.new_page()
    other.goto(url)
    other.wait_for_selector("html[data-ready]")
    for tab, prompt in ((page, "here"), (other, "there"), (page, "here again")):
        order(tab, prompt, steps=1)
        await_picture(tab, prompt)
    for tab in (page, other):
        expect(tab.locator("#history img")).to_have_count(3)
    button(other, "Clear").click()
    expect(page.locator("#history").get_by_role("button")).to_have_count(0)


def test_a_job_goes_on_over_a_reload(page: Page):
    order(page, "slowly", steps=40)
    expect(page.locator("#progress-text")).to_contain_text("Step")
    page.reload()
    expect(page.locator("#progress-text")).to_contain_text("Step")
    await_picture(page, "slowly")
    assert len(stored(page)) == 1


def test_several_pictures_have_a_seed_and_a_download_each(page: Page):
    field(page, "Seed").fill("41")
    field(page, "Images").fill("3")
    order(page, "boats", steps=1)
    expect(page.get_by_role("img", name="Picture 3 of 3: boats")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download picture 2").click()
    assert download.value.suggested_filename == "easel-42.png"
    field(page, "Seed").fill("")
    button(page, "Use this seed").click()
    expect(field(page, "Seed")).to_have_value("41")


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
    answer = httpx.Response(200, content=done.stdout).json()
    assert answer["status"] == "succeeded"
    assert_awkward(answer["input"])
    assert list(tmp_path.iterdir()) == []


def test_what_is_copied_as_python_saves_the_pictures(page: Page, url: str, tmp_path):
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


def test_all_works_with_the_keyboard_alone(page: Page):
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the prompt")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")  # the link leads to the prompt, or right before it
    if not page.evaluate("document.activeElement.id === 'prompt'"):
        page.keyboard.press("Shift+Tab")
    expect(field(page, "Prompt")).to_be_focused()
    page.keyboard.type("typed")
    page.keyboard.press("Control+Enter")
    expect(button(page, "Cancel")).to_be_visible()
    for _ in range(30):
        if page.evaluate("document.activeElement.id === 'cancel'"):
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#canvas")).to_have_text("Cancelled.")
    expect(button(page, "Generate")).to_be_focused()
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_every_control_has_a_name_and_every_part_its_role(page: Page):
    names = page.evaluate("""Array.from(document.querySelectorAll("input, textarea, select"),
        (control) => control.labels[0]?.textContent.trim())""")
    assert all(names)
    for role, name in (
        ("form", "What to draw"),
        ("region", "Picture"),
        ("region", "History"),
        ("group", "Size"),
        ("group", "The same request elsewhere"),
        ("navigation", "Elsewhere"),
    ):
        expect(page.get_by_role(role, name=name)).to_be_visible()  # type: ignore[arg-type]
    expect(page.get_by_role("heading", level=1)).to_have_text("Easel")
    assert page.locator("[role=status][aria-live=polite]").count() == 1
    assert page.evaluate("document.documentElement.lang") == "en"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone_in_either_scheme(browser: Browser, url: str, scheme):
    with open_page(browser, url, **PHONE, color_scheme=scheme) as page:
        page.get_by_text("Settings", exact=True).click()
        field(page, "Images").fill("2")
        field(page, "Width").fill("2040")
        field(page, "Height").fill("64")
        order(page, "long" * 200, steps=1)
        expect(page.get_by_role("link", name="Download picture 2")).to_be_visible()
        field(page, "Seed").fill("9" * 40)
        button(page, "Generate").click()
        expect(page.locator("#seed-error")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") == 360


CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const read = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (color) => read(color).slice(0, 3).map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
  const background = (element) => {
    const color = getComputedStyle(element).backgroundColor;
    return read(color)[3] === 255 ? color : background(element.parentElement);
  };
  const texts = [...document.querySelectorAll("body *")].filter((element) => element.checkVisibility()
    && [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()));
  return texts.map((element) => {
    const [light, dark] = [luminance(getComputedStyle(element).color), luminance(background(element))]
      .sort((a, b) => b - a);
    return [element.outerHTML.slice(0, 80), (light + 0.05) / (dark + 0.05)];
  });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_either_scheme(browser: Browser, url: str, scheme):
    with open_page(browser, url, **DESKTOP, color_scheme=scheme) as page:
        order(page, "", steps=1)
        expect(page.locator("#prompt-error")).to_be_visible()
        order(page, "legible", steps=1)
        await_picture(page, "legible")
        # https://www.w3.org/TR/WCAG22/#contrast-minimum
        found = page.evaluate(CONTRASTS)
        assert len(found) > 20
        assert [text for text in found if text[1] < 4.5] == []
        backdrop = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", backdrop))) < 3 * 128) is (scheme == "dark")


def test_nothing_moves_for_those_who_asked_for_stillness(browser: Browser, url: str):
    other = run_elsewhere(url, steps=100)
    with open_page(browser, url, **DESKTOP, reduced_motion="reduce") as page:
        order(page, "still", steps=1)
        waiting = page.locator(".waiting")
        expect(waiting).to_be_visible()
        assert waiting.evaluate("(element) => getComputedStyle(element).animationName") == "none"
        httpx.post(f"{url}/v1/predictions/{other}/cancel")
        await_picture(page, "still")


def test_a_page_that_is_left_leaves_no_stream_behind(browser: Browser, url: str):
    with open_page(browser, url, **DESKTOP) as page:
        order(page, "leaving", steps=100)
        expect(page.locator("#progress-text")).to_contain_text("Step")
        (entry,) = stored(page)
    assert prediction(url, entry["id"])["status"] == "processing"  # it is the client's to cancel, not the page's
    httpx.post(f"{url}/v1/predictions/{entry['id']}/cancel")
    wait_for(lambda: prediction(url, entry["id"])["status"] == "canceled", 20)
