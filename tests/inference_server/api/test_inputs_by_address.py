"""Input images by their address, in each API: fetched by the gateway from real servers, then treated as if sent."""

import asyncio
import base64
import gzip
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from easel_contract.add_ons import AddOnsConfig, ControlNetConfig
from easel_contract.gateway_config import InputsConfig
from easel_contract.server_config import SyntheticConfig
from easel_server.engine.synthetic_engine import SyntheticEngine
from easel_server.gateway.input_images import Decoders, decode_base64
from easel_server.gateway.inputs.fetching import MAX_URLS, REQUESTS, InputUrls
from easel_server.gateway.refusals import RefusalError
from easel_server.generation.tasks import Task
from PIL import Image

from tests.inference_server.api.input_hosts import CONFIG, LOOPBACK, Host
from tests.inference_server.api.serving import MODEL, CountingMetrics, RunningGateway
from tests.inference_server.outbound.test_guarded_transport import FakeResolver
from tests.support.client_images import decoded, decompression_bomb, encoded, halves, with_transparent_half
from tests.support.eventually import eventually
from tests.support.web_hosts import Serve, answer, redirect, serving, trickle, write_forever

RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture(scope="module")
def gateway() -> Iterator[RunningGateway]:
    with RunningGateway(CONFIG) as running:
        yield running


def edit(image: str, mask: str | None = None, **more: Any) -> tuple[str, dict[str, Any]]:
    masks = {} if mask is None else {"mask": {"image_url": mask}}
    return "/v1/images/edits", {"prompt": "a cat", "images": [{"image_url": image}], **masks, **more}


def predict(image: str, mask: str | None = None, **more: Any) -> tuple[str, dict[str, Any]]:
    return "/v1/predictions", {"input": {"prompt": "a cat", "image": image, "mask": mask, **more}}


def img2img(image: str, mask: str | None = None, **more: Any) -> tuple[str, dict[str, Any]]:
    size = {"width": 64, "height": 64, "steps": 4, "inpaint_full_res": False}
    masks = {} if mask is None else {"mask": mask}
    return "/sdapi/v1/img2img", {"prompt": "a cat", "init_images": [image], **masks, **size, **more}


WAYS: dict[str, Callable[..., tuple[str, dict[str, Any]]]] = {"openai": edit, "replicate": predict, "a1111": img2img}
FIELDS = {"openai": "image", "replicate": "input.image", "a1111": "init_images"}


def post(client: httpx2.Client, request: tuple[str, dict[str, Any]], **headers: str) -> httpx2.Response:
    path, body = request
    return client.post(path, json=body, headers={"Prefer": "wait", **headers})


@pytest.mark.parametrize("way", WAYS)
def test_an_image_and_its_mask_are_fetched_and_reach_the_worker_as_images(gateway, client, host, way):
    mask = with_transparent_half() if way == "openai" else Image.new("L", (64, 64), 255)
    request = WAYS[way](host.put("/cat.jpg?signed=1", encoded(halves(), "JPEG")), host.put("/mask.png", encoded(mask)))
    answered = post(client, request)
    assert answered.is_success, answered.text
    claim = gateway.worker.claims[-1]
    parameters = claim.job.parameters
    assert parameters.task is Task.INPAINT
    image = decoded(claim.inputs[parameters.image_digest]).convert("RGB")
    assert image.crop((0, 0, 16, 64)).resize((1, 1)).tobytes()[0] > 240  # red
    assert set(claim.inputs) == {parameters.image_digest, parameters.mask_digest}
    assert sorted(host.asked) == ["/cat.jpg?signed=1", "/mask.png"]
    assert host.url not in claim.job.model_dump_json()


@pytest.mark.parametrize("way", WAYS)
def test_a_service_that_allows_no_host_fetches_nothing(way):
    with RunningGateway() as gateway, gateway.client() as client:
        host = Host(gateway)
        answered = post(client, WAYS[way](host.put("/cat.png", encoded(halves()))))
        host.close()
    assert answered.status_code in {400, 422}
    assert "is a web address, and this service fetches none" in answered.text
    assert host.asked == []


def test_what_is_cached_goes_by_the_content_and_not_by_the_address(client, host):
    def ask(url: str) -> str:
        return str(post(client, edit(url, size="64x64", seed=7, prompt="a cat by content")).headers["X-Cache"])

    first, second = host.put("/a.png", encoded(halves())), host.put("/b.png", encoded(halves()))
    assert [ask(first), ask(first), ask(second)] == ["miss", "hit", "hit"]
    host.put("/a.png", encoded(halves(left="green")))
    assert [ask(first), ask(second)] == ["miss", "hit"]


@pytest.mark.parametrize("way", WAYS)
def test_the_recipe_holds_the_digest_of_what_was_fetched(gateway, client, host, way):
    """The same as of an image that was sent along: so its recipe generates it again, whichever way it comes then."""
    image = encoded(halves(left="yellow"))
    post(client, WAYS[way](host.put("/x.png", image)))
    by_address = gateway.worker.claims[-1].job.parameters
    post(client, WAYS[way]("data:image/png;base64," + base64.b64encode(image).decode()))
    claim = gateway.worker.claims[-1]
    by_content = claim.job.parameters
    assert by_address.image_digest == by_content.image_digest
    assert (
        by_content.image_digest == hashlib.sha256(gateway.worker.claims[-1].inputs[by_content.image_digest]).hexdigest()
    )


def test_a_part_is_pasted_into_the_very_image_that_was_fetched():
    """Though another one is at its address by then: it is fetched once."""
    mask = Image.new("L", (128, 64), 0)
    mask.paste(255, (0, 0, 16, 16))
    changed = answer(encoded(halves((128, 64), left="green", right="green")))
    engine = SyntheticEngine(MODEL, SyntheticConfig(milliseconds_per_image=1))
    with RunningGateway(CONFIG, engine=engine) as gateway, gateway.client() as client:
        host = Host(gateway)

        async def serve_once(head: str, writer: asyncio.StreamWriter) -> None:
            await answer(encoded(halves((128, 64))))(head, writer)
            host.served["/i.png"] = changed

        host.served["/i.png"] = serve_once
        request = img2img(f"{host.url}/i.png", host.put("/m.png", encoded(mask)), mask_blur=0, inpaint_full_res=True)
        images = post(client, request).json()["images"]
        host.close()
    pasted = decoded(base64.b64decode(images[0])).convert("RGB")
    assert (pasted.getpixel((32, 4)), pasted.getpixel((100, 60))) == (RED, BLUE)
    assert sorted(host.asked) == ["/i.png", "/m.png"]


def generate(image: str) -> tuple[str, dict[str, Any]]:
    controls = [{"model": "tile", "image": image}]
    return "/v1/images/generations", {"prompt": "a cat", "controlnet": controls, "size": "64x64"}


def predict_with_a_control(image: str) -> tuple[str, dict[str, Any]]:
    size = {"width": 64, "height": 64}
    return "/v1/predictions", {"input": {"prompt": "a cat", "controlnet": "tile", "control_image": image, **size}}


def txt2img(image: str) -> tuple[str, dict[str, Any]]:
    units = {"controlnet": {"args": [{"image": image, "model": "tile"}]}}
    return "/sdapi/v1/txt2img", {"prompt": "a cat", "width": 64, "height": 64, "steps": 2, "alwayson_scripts": units}


CONTROLLED = {"openai": generate, "replicate": predict_with_a_control, "a1111": txt2img}


@pytest.mark.parametrize("way", CONTROLLED)
def test_a_control_image_is_fetched_too(way):
    """Fields that came after the way there was."""
    add_ons = AddOnsConfig(control_nets=(ControlNetConfig(name="tile", source="/weights/tile"),))
    engine = SyntheticEngine(MODEL, SyntheticConfig(milliseconds_per_image=1))
    image = encoded(halves())
    with RunningGateway(CONFIG, engine=engine, add_ons=add_ons) as gateway, gateway.client() as client:
        host = Host(gateway)
        by_content = "data:image/png;base64," + base64.b64encode(image).decode()
        answers = [post(client, CONTROLLED[way](each)) for each in (host.put("/c.png", image), by_content)]
        assert all(each.is_success for each in answers), [each.text for each in answers]
        jobs = [gateway.call(gateway.stores.jobs.get(each.headers["X-Prediction-Id"])) for each in answers]
        host.close()
    assert host.asked == ["/c.png"]
    assert len({job.parameters.controls[0].image_digest for job in jobs if job is not None}) == 1


HTML = b"<!doctype html><title>Not found</title>"
SVG = b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>"


def endless(_: str, writer: asyncio.StreamWriter) -> Any:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    return write_forever(writer, bytes(1 << 16))


BAD: dict[str, tuple[Serve, str]] = {
    "not found": (answer(HTML, status="404 Not Found"), "answered 404 instead of 200"),
    "a page": (answer(HTML, "Content-Type: image/png"), "is no image that can be read"),
    "an SVG": (answer(SVG, "Content-Type: image/svg+xml"), "is no image that can be read"),
    "nothing": (answer(b""), "is no image that can be read (0 bytes)"),
    "huge pixels": (answer(decompression_bomb()), "has 30000x30000 = 900000000 pixels"),
    "too long": (answer(bytes((1 << 20) + 1)), "more than the 1048576 bytes allowed"),
    "endless": (endless, "more than the 1048576 bytes allowed"),
    "a gzip bomb": (answer(gzip.compress(bytes(32 << 20)), "Content-Encoding: gzip"), "more than the 1048576 bytes"),
    "a slow one": (trickle, "2 seconds"),
    "to a private address": (redirect("http://10.0.0.1/latest"), "redirects to 10.0.0.1, and allowed is 127.0.0.1"),
    "to this machine by another name": (redirect("http://localhost/"), "redirects to localhost, and allowed is"),
    "to a file": (redirect("file:///etc/passwd"), "redirects to an address that"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_image_is_refused_by_the_fields_name(gateway, client, host, case):
    host.served["/x"], said = BAD[case]
    before = len(gateway.worker.seen)
    answered = post(client, predict(host.url + "/x"))
    assert answered.status_code == 422
    fault = answered.json()["invalid_fields"][0]
    assert fault["field"] == "input.image"
    assert said in fault["description"]
    assert len(gateway.worker.seen) == before


@pytest.mark.parametrize("way", WAYS)
def test_a_host_that_is_not_listed_is_refused_with_those_that_are(client, way):
    answered = post(client, WAYS[way]("https://evil.example/cat.png"))
    assert answered.status_code == (400 if way == "openai" else 422)
    for said in (FIELDS[way], "leads to evil.example, and allowed is 127.0.0.1", "gateway.inputs.allowedHosts"):
        assert said in answered.text


def test_the_metric_says_what_became_of_each(gateway, client, host):
    def count(result: str) -> int:
        return gateway.metrics.counts["fetch", result]

    before = {result: count(result) for result in ("fetched", "answer", "refused")}
    post(client, edit(host.put("/good.png", encoded(halves()))))
    post(client, edit(host.url + "/missing.png"))
    post(client, edit("http://elsewhere.example/"))
    assert {result: count(result) - number for result, number in before.items()} == dict.fromkeys(before, 1)


def test_a_request_names_few_addresses():
    """Whichever field they are in: this many, and one more is refused."""

    async def run() -> None:
        async with serving(answer(b"x")) as (port, heads):
            decoders = build_decoders()

            def read() -> list[bytes]:
                return [
                    decode_base64(f"image {n}", f"http://a.example:{port}/{n}", is_prefix_needed=True) for n in names
                ]

            names = range(MAX_URLS)
            assert await decoders.run("one", read) == [b"x"] * MAX_URLS
            assert len(heads) == MAX_URLS
            names = range(MAX_URLS + 1)
            with pytest.raises(RefusalError, match=f"more than the {MAX_URLS}"):
                await decoders.run("one", read)

    asyncio.run(run())


def build_decoders(max_bytes: int = 1 << 20, max_seconds: int = 20) -> Decoders:
    config = InputsConfig(allowed_hosts=("*",), allowed_networks=(LOOPBACK,), max_seconds=max_seconds)
    return Decoders(InputUrls(config, CountingMetrics(), max_bytes=max_bytes, resolve=FakeResolver(["127.0.0.1"])))


async def test_the_images_of_a_request_share_its_bytes():
    async with serving(answer(bytes(600))) as (port, _):
        decoders = build_decoders(max_bytes=1000)

        def read() -> list[bytes]:
            return [decode_base64(name, f"http://a.example:{port}/{name}", is_prefix_needed=True) for name in "ab"]

        with pytest.raises(RefusalError, match=r"b: .*1000 together \(gateway\.limits\.maxBodyBytes\)"):
            await decoders.run("one", read)


async def test_one_address_twice_is_fetched_once():
    async with serving(answer(b"x")) as (port, heads):
        url = f"http://a.example:{port}/"

        def read() -> list[bytes]:
            return [decode_base64(name, url, is_prefix_needed=True) for name in "ab"]

        assert await build_decoders().run("one", read) == [b"x", b"x"]
        assert len(heads) == 1


async def test_slow_hosts_of_one_customer_leave_places_for_others_and_threads_for_everybody():
    release = asyncio.Event()

    async def wait(_: str, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        await answer(b"late")("", writer)

    async with serving(wait) as (slow, heads), serving(answer(b"soon")) as (fast, _):
        decoders = build_decoders()

        def read(port: int) -> Callable[[], bytes]:
            return lambda: decode_base64("image", f"http://a.example:{port}/", is_prefix_needed=True)

        greedy = [asyncio.create_task(decoders.run("greedy", read(slow))) for _ in range(3 * REQUESTS)]

        async def are_greedy_ones_served() -> bool:
            return len(heads) >= REQUESTS - 2

        await eventually(are_greedy_ones_served)
        async with asyncio.timeout(10):
            assert await decoders.run("modest", read(fast)) == b"soon"
            assert await decoders.run("third", lambda: 7) == 7
            assert await decoders.run("greedy", lambda: 8) == 8
        assert len(heads) < REQUESTS
        release.set()
        assert await asyncio.gather(*greedy) == [b"late"] * len(greedy)


@asynccontextmanager
async def reading_once(release: asyncio.Event) -> AsyncIterator[Callable[[], bytes]]:
    """What reads an image by an address that answers no sooner than ``release`` is set."""

    async def wait(_: str, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        await answer(b"late")("", writer)

    async with serving(wait) as (port, _):
        yield lambda: decode_base64("image", f"http://a.example:{port}/", is_prefix_needed=True)


async def test_as_many_requests_wait_as_may_and_others_are_refused_with_a_time():
    release = asyncio.Event()
    async with reading_once(release) as read:
        decoders = build_decoders()
        tasks = [asyncio.create_task(decoders.run("greedy", read)) for _ in range(100)]
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        error = ended.pop().exception()
        assert isinstance(error, RefusalError)
        assert (error.status, error.code) == (503, "too_many_fetches")
        assert error.headers["Retry-After"]
        release.set()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_who_leaves_while_waiting_takes_no_place_along():
    release = asyncio.Event()
    async with reading_once(release) as read:
        decoders = build_decoders()
        tasks = [asyncio.create_task(decoders.run("one", read)) for _ in range(30)]
        assert decoders._urls is not None
        turns = decoders._urls._turns
        await eventually(lambda: asyncio.sleep(0, turns._taken + sum(map(len, turns._waiting.values())) == len(tasks)))
        for task in tasks[::2]:
            task.cancel()
        release.set()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert ended.count(b"late") == 15
        async with asyncio.timeout(10):
            assert await asyncio.gather(*(decoders.run("two", read) for _ in range(REQUESTS))) == [b"late"] * REQUESTS
