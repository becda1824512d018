"""The playground under rough use: lost networks, sleeping workers, batches, full storage, several tabs."""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from easel_contract.gateway_config import GatewayConfig
from easel_contract.server_config import SyntheticConfig
from easel_server.engine.synthetic_engine import SyntheticEngine
from playwright.sync_api import Browser, Page, Route, expect

from tests.inference_server.api.playground.page import (
    DESKTOP,
    KEY,
    await_image,
    await_kept,
    button,
    field,
    order,
    prediction,
    run_elsewhere,
    serve,
    stored,
)
from tests.inference_server.api.serving import RunningGateway
from tests.support.browser import open_page

pytestmark = pytest.mark.browser

MEBIBYTE = 1 << 20


def reload(page: Page) -> None:
    page.reload()
    page.wait_for_selector("html[data-ready]")


# --- Networks and services


def test_a_page_that_is_opened_while_the_service_is_away_begins_by_itself(page: Page):
    page.route("**/playground/config", lambda route: route.fulfill(status=503, body="no gateway"))
    page.reload()
    expect(page.get_by_role("alert").filter(has_text="The page tries again by itself.")).to_be_visible()
    page.unroute("**/playground/config")
    page.wait_for_selector("html[data-ready]")
    expect(page.locator("#form-error")).to_be_hidden()
    order(page, "after all", steps=1)
    await_image(page, "after all")


def test_a_network_that_goes_in_the_middle_of_a_job_costs_no_image(page: Page, url: str):
    order(page, "through a tunnel", steps=30)
    expect(page.locator("#progress-text")).to_contain_text("Step")
    page.context.set_offline(True)
    refused = page.evaluate("fetch('playground/config').then(() => false, () => true)")
    assert refused
    page.context.set_offline(False)
    await_image(page, "through a tunnel")
    assert len(stored(page)) == 1


def test_without_a_network_it_is_said_and_nothing_is_lost_of_the_form(page: Page):
    page.context.set_offline(True)
    order(page, "offline", steps=1)
    expect(page.get_by_role("alert").filter(has_text="The service can\u2019t be reached")).to_be_visible()
    expect(page.locator("#progress")).to_be_hidden()
    expect(field(page, "Prompt")).to_have_value("offline")
    page.context.set_offline(False)
    button(page, "Generate").click()
    await_image(page, "offline")


class Sleeping(RunningGateway):
    """Without a worker until a test wakes one."""

    def __init__(self, *, max_workers: int) -> None:
        engine = SyntheticEngine("tiny", SyntheticConfig(milliseconds_per_step=0, milliseconds_per_image=0))
        super().__init__(GatewayConfig(max_workers=max_workers), engine=engine)
        self._awake = asyncio.Event()

    def wake(self) -> None:
        self.do(self._awake.set)

    def _build_worker(self) -> Any:
        worker, awake = super()._build_worker(), self._awake

        class Later:
            async def run(self) -> None:
                await awake.wait()
                await worker.run()

        return Later()


def test_a_sleeping_service_says_that_a_worker_is_started_and_counts_the_seconds(browser: Browser):
    with Sleeping(max_workers=1) as gateway, open_page(browser, gateway.url, **DESKTOP) as page:
        order(page, "good morning", steps=1)
        text = page.locator("#progress-text")
        expect(text).to_contain_text("The service was asleep: a worker is being started \u00b7 Next in the queue")
        expect(page.locator("#announcement")).to_contain_text("a worker is being started")
        expect(text).to_have_text(re.compile(r"about 5\d s left"))  # of 60, which the service says once
        gateway.wake()
        await_image(page, "good morning")


def test_a_service_that_will_have_no_worker_says_so(browser: Browser):
    with Sleeping(max_workers=0) as gateway, open_page(browser, gateway.url, **DESKTOP) as page:
        order(page, "in vain", steps=1)
        expect(page.locator("#progress-text")).to_have_text(
            "No worker takes work now, and none is on its way \u00b7 Next in the queue"
        )
        button(page, "Cancel").click()
        expect(page.locator("#canvas")).to_have_text("Cancelled.")


def test_what_keeps_a_job_from_beginning_is_said_while_it_waits(page: Page):
    warning = "no worker can load the model: no space left; this waits until one can"
    events = f"event: logs\ndata: warning: {warning}\n\nevent: progress\ndata: {json.dumps(WAITING)}\n\n"
    page.route("**/stream?progress=true", lambda route: route.fulfill(body=events, content_type="text/event-stream"))
    order(page, "waiting", steps=1)
    expect(page.locator("#progress-note")).to_have_text(warning)
    page.unroute("**/stream?progress=true")
    await_image(page, "waiting")
    expect(page.locator("#progress-note")).to_be_hidden()


def test_a_place_in_the_queue_that_falls_back_is_said_to_be_others_turn(page: Page):
    """Requests that can still be in time go before one that can't."""
    places = [WAITING | {"queue_position": ahead + 1, "jobs_ahead": ahead} for ahead in (3, 2, 5)]
    events = "".join(f"event: progress\ndata: {json.dumps(place)}\n\n" for place in places)
    page.route("**/stream?progress=true", lambda route: route.fulfill(body=events, content_type="text/event-stream"))
    order(page, "late", steps=1)
    expect(page.locator("#progress-text")).to_have_text("Number 6 in the queue · 5 ahead, others go first for now")
    page.unroute("**/stream?progress=true")
    await_image(page, "late")


WAITING = {
    "status": "starting",
    "queue_position": 1,
    "jobs_ahead": 0,
    "workers": 1,
    "eta_seconds": None,
    "steps_done": 0,
    "steps": 1,
    "previews": [],
}


# --- Batches


def test_cancel_while_requests_are_still_sent_sends_no_more_and_ends_those_that_were(page: Page, url: str):
    other = run_elsewhere(url, steps=100)
    held: list[Route] = []

    def hold_the_second(route: Route) -> None:
        if len(held) < 1 and stored(page):
            held.append(route)
        else:
            route.continue_()

    field(page, "Requests").fill("4")
    page.route("**/v1/predictions", hold_the_second)
    order(page, "a flood", steps=3)
    expect(page.locator("#progress-text")).to_have_text("Request 2 of 4 \u00b7 Sending\u2026")
    button(page, "Cancel").click()
    expect(page.locator("#progress-text")).to_have_text("Cancelling\u2026")
    held[0].continue_()
    expect(page.locator("#canvas")).to_have_text("Cancelled.")
    assert [prediction(url, entry["id"])["status"] for entry in stored(page)] == ["canceled", "canceled"]
    assert button(page, "Generate").get_attribute("aria-disabled") is None
    httpx2.post(f"{url}/v1/predictions/{other}/cancel")


def test_a_batch_of_which_one_is_refused_follows_those_that_were_taken(page: Page):
    taken = 0

    def refuse_the_third(route: Route) -> None:
        nonlocal taken
        taken += 1
        if taken < 3:
            route.continue_()
        else:
            route.fulfill(status=429, json={"detail": "too many requests; try again in 30 s"})

    page.route("**/v1/predictions", refuse_the_third)
    field(page, "Requests").fill("4")
    order(page, "some", steps=1)
    expect(page.get_by_role("alert").filter(has_text="Too many requests; try again in 30 s")).to_be_visible()
    expect(page.get_by_role("list").get_by_role("button", name="some Seed")).to_have_count(2)
    assert taken == 3


# --- Keys, tabs, storage


def test_a_tab_without_the_key_asks_for_it_and_then_finds_the_job_again(browser: Browser, tmp_path):
    (tmp_path / "alice").write_text(KEY)
    with serve(api_keys_directory=str(tmp_path)) as url, open_page(browser, url, **DESKTOP) as page:
        field(page, "API key").fill(KEY)
        order(page, "mine", steps=40)
        expect(page.locator("#progress-text")).to_contain_text("Step")
        page.evaluate("sessionStorage.clear()")
        page.reload()
        expect(field(page, "API key")).to_be_focused()
        expect(page.locator("#key-error")).to_contain_text("Enter an API key")
        field(page, "API key").fill(KEY)
        field(page, "API key").press("Tab")
        await_image(page, "mine")
        assert len(stored(page)) == 1


def test_a_key_with_a_character_that_no_key_has_does_no_harm_after_a_reload(browser: Browser, tmp_path):
    (tmp_path / "alice").write_text(KEY)
    with serve(api_keys_directory=str(tmp_path)) as url, open_page(browser, url, **DESKTOP) as page:
        field(page, "API key").fill("schl\u00fcssel")
        reload(page)
        order(page, "mine", steps=1)
        expect(page.locator("#key-error")).to_have_text("The API key holds a character that no key has.")


def test_a_job_is_followed_in_two_tabs_and_cancelled_in_either(page: Page, url: str):
    order(page, "shared", steps=100)
    expect(page.locator("#progress-text")).to_contain_text("Step")
    other = page.context.new_page()
    other.goto(url)
    expect(other.locator("#progress-text")).to_contain_text("Step")
    button(other, "Cancel").click()
    for tab in (page, other):
        expect(tab.locator("#canvas")).to_have_text("Cancelled.")
    expect(page.get_by_role("list").get_by_role("button", name="shared Cancelled")).to_have_count(1)


def test_what_is_shown_and_deleted_in_another_tab_can_still_be_upscaled(page: Page, url: str):
    for side in ("Width", "Height"):
        field(page, side).fill("64")
    order(page, "fleeting", steps=1)
    await_image(page, "fleeting")
    await_kept(page)
    other = page.context.new_page()
    other.goto(url)
    other.wait_for_selector("html[data-ready]")
    button(other, "Clear").click()
    expect(page.locator("#history").get_by_role("button")).to_have_count(0)
    button(page, "Upscale").click()
    expect(page.locator("#facts")).to_contain_text("128 \u00d7 128")
    button(page, "Use these settings").click()
    expect(field(page, "Prompt")).to_have_value("fleeting")


FULL_GALLERY = """async (megabytes) => {
    const { Store } = await import("./playground/store.js");
    const store = new Store();
    await store.open();
    for (let index = 0; index < 100; index += 1) {
        const id = `old-${String(index).padStart(3, "0")}`;
        await store.keep(id, { images: [new Blob([new Uint8Array(1024)])] });
        const input = { prompt: id, seed: "1" };
        await store.put({ id, at: index + 1, status: "succeeded", input, bytes: megabytes * 1024 * 1024 });
    }
}"""


def test_hundreds_of_images_stay_within_the_bounds_and_the_oldest_go_first(page: Page):
    page.evaluate(FULL_GALLERY, 3)
    reload(page)
    expect(page.get_by_text("100 of at most 100, 300.0 of at most 200 MiB")).to_be_visible()
    order(page, "one more", steps=1)
    await_image(page, "one more")
    expect(page.locator("#history-count")).to_contain_text(re.compile(r"^100 of at most 100, 1\d\d\.\d of"))
    await_kept(page)
    entries = stored(page)
    assert len(entries) == 100
    assert entries[1]["bytes"] > 0
    assert entries[-1]["bytes"] == 0
    assert sum(entry["bytes"] for entry in entries) <= 200 * MEBIBYTE


FULL_UNTIL_DELETED = """
const put = IDBObjectStore.prototype.put;
const remove = IDBObjectStore.prototype.delete;
let isFull = true;
IDBObjectStore.prototype.delete = function (...given) { isFull = false; return remove.apply(this, given); };
IDBObjectStore.prototype.put = function (...given) {
    if (isFull && this.name === "images") throw new DOMException("no room", "QuotaExceededError");
    return put.apply(this, given);
};
"""


def test_a_full_disk_makes_room_by_the_oldest_images(page: Page):
    order(page, "older", steps=1)
    await_image(page, "older")
    await_kept(page)
    page.add_init_script(FULL_UNTIL_DELETED)
    reload(page)
    order(page, "newer", steps=1)
    await_image(page, "newer")
    await_kept(page)
    assert [entry["bytes"] > 0 for entry in stored(page)] == [True, False]
    expect(page.locator("#history-refused")).to_be_hidden()


NO_STORAGE = """for (const name of ["sessionStorage", "localStorage", "indexedDB"]) {
    Object.defineProperty(globalThis, name, { get() { throw new DOMException("denied", "SecurityError"); } });
}"""


def test_a_browser_that_forbids_all_storage_still_generates(browser: Browser, tmp_path):
    (tmp_path / "alice").write_text(KEY)
    with serve(api_keys_directory=str(tmp_path)) as url, open_page(browser, url, **DESKTOP) as page:
        page.add_init_script(NO_STORAGE)
        reload(page)
        field(page, "API key").fill(KEY)
        order(page, "for now", steps=1)
        await_image(page, "for now")
        expect(page.get_by_role("alert").filter(has_text="keep what is generated here")).to_be_visible()
        button(page, "Forget").click()
        expect(field(page, "API key")).to_have_value("")


@pytest.fixture
def mid_job(page: Page, url: str) -> Iterator[tuple[Page, str]]:
    """A page whose upscaling waits behind another client's job."""
    for side in ("Width", "Height"):
        field(page, side).fill("64")
    order(page, "small", steps=1)
    await_image(page, "small")
    other = run_elsewhere(url, steps=100)
    button(page, "Upscale").click()
    expect(page.locator("#progress-text")).to_contain_text("queue")
    yield page, other
    httpx2.post(f"{url}/v1/predictions/{other}/cancel")


def test_upscaling_goes_on_over_a_reload(mid_job, url: str):
    page, other = mid_job
    page.reload()
    expect(page.locator("#progress-text")).to_contain_text("queue")
    httpx2.post(f"{url}/v1/predictions/{other}/cancel")
    expect(page.locator("#facts")).to_contain_text("128 \u00d7 128")
    assert len(stored(page)) == 2


def test_an_image_that_can_not_be_shown_is_said_and_the_page_goes_on(page: Page):
    page.route("**/output/0", lambda route: route.fulfill(body=b"not an image", content_type="image/png"))
    order(page, "broken", steps=1)
    expect(page.get_by_role("alert").filter(has_text="can\u2019t be shown")).to_be_visible()
    page.unroute("**/output/0")
    page.get_by_role("list").get_by_role("button", name="broken Seed").click()
    await_image(page, "broken")
