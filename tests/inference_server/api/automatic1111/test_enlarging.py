"""Hires fix and upscaling as `webuiapi` asks for them."""

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from easel_contract.server_config import SyntheticConfig
from easel_server.engine.synthetic_engine import SyntheticEngine
from PIL import Image
from webuiapi import HiResUpscaler, WebUIApi  # type: ignore[import-untyped]

from tests.inference_server.api.automatic1111.test_automatic1111 import connected
from tests.inference_server.api.serving import MODEL, RunningGateway

SMALL = {"prompt": "a cat", "width": 64, "height": 64, "steps": 4, "seed": 5}


@pytest.fixture(scope="module")
def gateway() -> Iterator[RunningGateway]:
    with RunningGateway(engine=SyntheticEngine(MODEL, SyntheticConfig(milliseconds_per_image=1))) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def api(gateway: RunningGateway) -> Iterator[WebUIApi]:
    with connected(gateway) as api:
        yield api


def test_hires_fix_gives_an_image_of_the_larger_size(api: WebUIApi) -> None:
    result = api.txt2img(**SMALL, enable_hr=True, hr_scale=2, hr_upscaler=HiResUpscaler.Latent, denoising_strength=0.5)
    assert result.image.size == (128, 128)
    text = result.info["infotexts"][0]
    assert "Hires resize: 128x128" in text
    assert "Hires upscaler: Latent" in text
    assert "Denoising strength: 0.5" in text


def test_what_an_image_says_of_its_second_pass_gives_it_again(gateway: RunningGateway) -> None:
    body = {**SMALL, "enable_hr": True, "hr_resize_x": 192, "hr_resize_y": 128, "hr_second_pass_steps": 3}
    with httpx2.Client(base_url=gateway.url) as client:
        first = client.post("/sdapi/v1/txt2img", json=body).json()
        said = client.post("/sdapi/v1/png-info", json={"image": first["images"][0]}).json()
        assert said["parameters"]["hr_resize_x"] == 192
        again = client.post("/sdapi/v1/txt2img", json={"infotext": said["info"]}).json()
    assert again["images"] == first["images"]


def test_without_enable_hr_its_fields_ask_for_nothing(api: WebUIApi) -> None:
    assert api.txt2img(**SMALL, enable_hr=False, hr_scale=3, denoising_strength=0.5).image.size == (64, 64)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"hr_upscaler": "Mine"}, "which is no upscaler of this service; allowed are Latent, "),
        ({"hr_scale": 100}, "hr_scale: is 100.0"),
        ({"hr_prompt": "a dog"}, "hr_prompt"),
        ({"hr_sampler_name": "Heun"}, "hr_sampler_name"),
        ({"hr_resize_x": 3000, "hr_resize_y": 3000}, "is 3000x3000 pixels, allowed are multiples of 8 to 2048"),
        ({"denoising_strength": 0}, "denoising strength of 0"),
        ({"hr_second_pass_steps": 1000}, "has 1000 steps"),
    ],
)
def test_what_a_second_pass_cant_do_is_refused_by_name(gateway: RunningGateway, fields: Any, said: str) -> None:
    answer = httpx2.post(f"{gateway.url}/sdapi/v1/txt2img", json={**SMALL, "enable_hr": True, **fields})
    assert answer.status_code == 422
    assert said in answer.json()["detail"]


def test_an_image_of_any_size_is_enlarged(api: WebUIApi) -> None:
    image = Image.new("RGB", (50, 37))
    assert api.extra_single_image(image, upscaler_1="Lanczos", upscaling_resize=3).image.size == (150, 111)
    sized = {"resize_mode": 1, "upscaling_resize_w": 60, "upscaling_resize_h": 60, "upscaler_1": "Nearest"}
    assert api.extra_single_image(image, **sized).image.size == (60, 60)
    assert api.extra_single_image(image, **sized, upscaling_crop=False).image.size == (81, 60)
    assert api.extra_single_image(image).image.size == (50, 37)
    assert [each.size for each in api.extra_batch_images([image, image], upscaler_1="Lanczos").images] == [
        (100, 74)
    ] * 2


def test_what_isnt_offered_of_it_is_refused_by_name(gateway: RunningGateway, api: WebUIApi) -> None:
    image = Image.new("RGB", (50, 37))
    for fields, said in (
        ({"gfpgan_visibility": 1}, "gfpgan_visibility"),
        ({"upscaler_1": "Mine"}, "allowed are None, Lanczos, Nearest"),
        ({"upscaler_1": "Lanczos", "upscaler_2": "Mine", "extras_upscaler_2_visibility": 0.5}, "Mine"),
    ):
        with pytest.raises(RuntimeError, match=said):
            api.extra_single_image(image, **fields)


def test_upscalers_and_latent_modes_are_listed(api: WebUIApi) -> None:
    assert [each["name"] for each in api.get_upscalers()] == ["None", "Lanczos", "Nearest"]
    assert "Latent (bicubic antialiased)" in [each["name"] for each in api.get_latent_upscale_modes()]
