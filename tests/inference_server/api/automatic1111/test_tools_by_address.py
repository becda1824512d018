"""Images by their address in AUTOMATIC1111's tools (enlarging, png-info, a preprocessor's preview), masks and units."""

import base64
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import numpy as np
import pytest
from easel_contract.add_ons import AddOnsConfig, ControlNetConfig
from easel_contract.server_config import SyntheticConfig
from easel_server.engine.synthetic_engine import SyntheticEngine
from easel_server.generation.encoding import encode
from easel_server.generation.parameters import ImageFormat

from tests.inference_server.api.input_hosts import CONFIG
from tests.inference_server.api.serving import MODEL, RunningGateway
from tests.support.client_images import decoded, encoded, halves

IMAGE = halves((96, 64), "teal", "orange")
SMALL: dict[str, Any] = {"prompt": "a cat", "width": 64, "height": 64, "steps": 2}
ADD_ONS = AddOnsConfig(control_nets=(ControlNetConfig(name="tile", source="/weights/tile"),))


@pytest.fixture(scope="module")
def gateway() -> Iterator[RunningGateway]:
    engine = SyntheticEngine(MODEL, SyntheticConfig(milliseconds_per_image=1))
    with RunningGateway(CONFIG, engine=engine, add_ons=ADD_ONS) as running:
        yield running


def enlarge(image: str) -> tuple[str, dict[str, Any]]:
    return "/sdapi/v1/extra-single-image", {"image": image, "upscaler_1": "Nearest", "upscaling_resize": 2}


def enlarge_several(image: str) -> tuple[str, dict[str, Any]]:
    listed = [{"data": image, "name": "a.png"}, {"data": image, "name": "b.png"}]
    return "/sdapi/v1/extra-batch-images", {"imageList": listed, "upscaler_1": "Nearest", "upscaling_resize": 2}


def read_info(image: str) -> tuple[str, dict[str, Any]]:
    return "/sdapi/v1/png-info", {"image": image}


def preview(image: str) -> tuple[str, dict[str, Any]]:
    body = {"controlnet_module": "invert", "controlnet_input_images": [image], "controlnet_processor_res": 64}
    return "/controlnet/detect", body


def inpaint(image: str) -> tuple[str, dict[str, Any]]:
    init = base64.b64encode(encoded(IMAGE)).decode()
    return "/sdapi/v1/img2img", {**SMALL, "init_images": [init], "mask": image, "inpaint_full_res": False}


def hold(image: str) -> tuple[str, dict[str, Any]]:
    unit = {"model": "tile", "image": {"image": image}}
    return "/sdapi/v1/txt2img", {**SMALL, "alwayson_scripts": {"controlnet": {"args": [unit]}}}


WAYS: dict[str, tuple[Callable[[str], tuple[str, dict[str, Any]]], str]] = {
    "enlarging": (enlarge, "image"),
    "enlarging several": (enlarge_several, "imageList"),
    "what an image says": (read_info, "image"),
    "a preprocessor's preview": (preview, "controlnet_input_images"),
    "a mask": (inpaint, "mask"),
    "a unit's image": (hold, "alwayson_scripts.controlnet.args[0].image"),
}


def post(client: httpx2.Client, request: tuple[str, dict[str, Any]]) -> httpx2.Response:
    path, body = request
    return client.post(path, json=body)


@pytest.mark.parametrize("way", WAYS)
def test_an_image_on_an_allowed_host_is_fetched_and_used_as_if_it_had_been_sent(client, host, way):
    build, _ = WAYS[way]
    fetched = post(client, build(host.put("/a.png", encoded(IMAGE))))
    sent = post(client, build(base64.b64encode(encoded(IMAGE)).decode()))
    assert (fetched.status_code, sent.status_code) == (200, 200), fetched.text
    assert way in {"a mask", "a unit's image"} or fetched.json() == sent.json()
    assert host.asked == (["/a.png", "/a.png"] if way == "enlarging several" else ["/a.png"])


@pytest.mark.parametrize("way", WAYS)
def test_an_image_on_another_host_is_refused_by_its_field_and_nothing_is_asked_of_it(client, host, way):
    build, field = WAYS[way]
    refused = post(client, build(host.put("/a.png", encoded(IMAGE)).replace("127.0.0.1", "localhost")))
    assert (refused.status_code, refused.json()["errors"]) == (422, field)
    assert "localhost" in refused.json()["detail"]
    assert host.asked == []


@pytest.mark.parametrize("way", WAYS)
def test_what_is_no_image_there_is_refused_by_its_field(client, host, way):
    build, field = WAYS[way]
    refused = post(client, build(host.put("/a.png", b"<!doctype html>")))
    assert (refused.status_code, refused.json()["errors"]) == (422, field)
    assert "is no image" in refused.json()["detail"]


def test_what_is_made_of_an_image_that_was_fetched_is_of_that_very_image(client, host):
    described = encode(IMAGE, ImageFormat.PNG, "a cat\nSteps: 2, Seed: 5", "")
    url = host.put("/a.png", described)
    assert decoded(base64.b64decode(post(client, enlarge(url)).json()["image"])).size == (192, 128)
    [negative] = post(client, preview(url)).json()["images"]
    assert np.array_equal(np.asarray(decoded(base64.b64decode(negative)).convert("RGB")), 255 - np.asarray(IMAGE))
    assert post(client, read_info(url)).json()["info"] == "a cat\nSteps: 2, Seed: 5"
