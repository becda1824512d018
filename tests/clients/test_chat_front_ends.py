"""Open WebUI and SillyTavern, by the requests that they send, to a real model.

Open WebUI, https://github.com/open-webui/open-webui, `backend/open_webui/routers/images.py` at commit 02530d5: by its
engine `automatic1111` an administrator's `AUTOMATIC1111_PARAMS` go over the body, by `openai` its
`IMAGES_OPENAI_API_PARAMS`. SillyTavern, https://github.com/SillyTavern/SillyTavern, 1.12.6 and later (commit 02903fd):
what `generateAutoImage` of its extension `stable-diffusion` makes of the settings, sent on by
`src/endpoints/stable-diffusion.js`.
"""

import base64
import io
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from PIL import Image

from tests.clients.answers import Result, read_result, to_base64
from tests.clients.conftest import CONTROL_NET, LORA, UPSCALER
from tests.inference_server.api.serving import MODEL, RunningGateway
from tests.support.client_images import encoded, halves

pytestmark = pytest.mark.torch

OPEN_WEBUI: dict[str, Any] = {
    "prompt": "a cat",
    "batch_size": 1,
    "width": 64,
    "height": 64,
    "steps": 3,
    "negative_prompt": "blurry",
}
PARAMS: dict[str, Any] = {"sampler_name": "Euler a", "scheduler": "Automatic", "cfg_scale": 7, "seed": 5}
SILLY_TAVERN: dict[str, Any] = {
    "url": "http://localhost:7860",
    "auth": "user:password",
    "prompt": "a cat",
    "negative_prompt": "blurry",
    "sampler_name": "DPM++ 2M",
    "scheduler": "karras",  # of the list, by its name
    "steps": 3,
    "cfg_scale": 7,
    "width": 64,
    "height": 64,
    "restore_faces": False,
    "enable_hr": False,
    "hr_upscaler": "Latent",
    "hr_scale": 1.5,
    "hr_additional_modules": [],
    "denoising_strength": 0.7,
    "hr_second_pass_steps": 0,
    "seed": 5,
    "override_settings": {"CLIP_stop_at_last_layers": 1},
    "override_settings_restore_afterwards": True,
    "clip_skip": 1,
    "save_images": True,
    "send_images": True,
    "do_not_save_grid": False,
    "do_not_save_samples": False,
}


@pytest.fixture(scope="module")
def client(service: RunningGateway) -> Iterator[httpx2.Client]:
    with service.client(**{"Cache-Control": "no-store"}) as client:
        yield client


def ask_open_webui(client: httpx2.Client, **params: Any) -> Result:
    """Of an administrator's parameters."""
    return read_result(client.post("/sdapi/v1/txt2img", json={**OPEN_WEBUI, **PARAMS, **params}))


def ask_silly_tavern(client: httpx2.Client, **settings: Any) -> Result:
    return read_result(client.post("/sdapi/v1/txt2img", json={**SILLY_TAVERN, **settings}))


def test_open_webui_finds_the_model_and_may_choose_it(client: httpx2.Client) -> None:
    """It reads all options, changes the model's name, and sends all of them back."""
    [model] = client.get("/sdapi/v1/sd-models").json()
    assert (model["title"], model["model_name"]) == (MODEL, MODEL)
    options = client.get("/sdapi/v1/options").json()
    answer = client.post("/sdapi/v1/options", json={**options, "sd_model_checkpoint": model["title"]})
    assert (answer.status_code, "Warning" in answer.headers) == (200, False)


def test_open_webuis_parameters_reach_adapters_controlnet_and_a_second_pass(client: httpx2.Client) -> None:
    plain = ask_open_webui(client)
    assert plain.warnings == []
    inked = ask_open_webui(client, override_settings={"sd_lora": LORA, "CLIP_stop_at_last_layers": 2})
    assert inked.differs_from(plain)
    assert f"<lora:{LORA}:1>" in inked.text
    assert "Clip skip: 2" in inked.text
    unit = {"model": CONTROL_NET, "module": "canny", "image": to_base64(halves())}
    held = ask_open_webui(client, alwayson_scripts={"controlnet": {"args": [unit]}})
    assert held.differs_from(plain)
    assert f"Model: {CONTROL_NET}" in held.text
    larger = ask_open_webui(client, enable_hr=True, hr_scale=2, hr_upscaler=UPSCALER, denoising_strength=0.5)
    assert larger.image.size == (128, 128)
    assert f"Hires upscaler: {UPSCALER}" in larger.text


def test_who_chats_with_open_webui_asks_for_a_lora_in_the_prompt(client: httpx2.Client) -> None:
    plain, inked = (ask_open_webui(client, prompt=f"a cat{tag}") for tag in ("", f" <lora:{LORA}:0.6>"))
    assert inked.differs_from(plain)
    assert f"<lora:{LORA}:0.6>" in inked.text


def open_openais(answer: httpx2.Response) -> Image.Image:
    assert answer.status_code == 200, answer.text
    [image] = answer.json()["data"]
    return Image.open(io.BytesIO(base64.b64decode(image["b64_json"])))


def test_open_webuis_openai_engine_sends_an_administrators_parameters_along(client: httpx2.Client) -> None:
    common = {"model": MODEL, "prompt": "a cat", "n": 1, "size": "64x64", "response_format": "b64_json"}
    params = {"seed": 5, "num_inference_steps": 3}
    control = {"model": CONTROL_NET, "image": f"data:image/png;base64,{to_base64(halves())}"}
    add_ons = {"loras": {LORA: 0.8}, "hires": {"scale": 2}, "controlnet": [control]}
    path = "/v1/images/generations?api-version=2026-01-01"
    plain = open_openais(client.post(path, json={**common, **params}))
    image = open_openais(client.post(path, json={**common, **params, **add_ons}))
    assert (plain.size, image.size) == ((64, 64), (128, 128))
    for part in (f"<lora:{LORA}:0.8>", "Hires resize: 128x128", f"Model: {CONTROL_NET}"):
        assert part in image.info["parameters"]


def test_open_webui_edits_an_image_by_a_form(client: httpx2.Client) -> None:
    """One image is a file called `image`; a list of one is called `image[]`."""
    fields = {"model": MODEL, "prompt": "a dog", "n": "1", "size": "64x64", "response_format": "b64_json"}
    for name in ("image", "image[]"):
        files = {name: ("some-id.png", encoded(halves()), "image/png")}
        edited = open_openais(client.post("/v1/images/edits", data=fields, files=files))
        assert edited.size == (64, 64)
    several = [("image[]", (f"{number}.png", encoded(halves()), "image/png")) for number in range(2)]
    refused = client.post("/v1/images/edits", data=fields, files=several)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "image")


def test_silly_tavern_shows_what_there_is(client: httpx2.Client) -> None:
    def names(path: str) -> list[str]:
        return [each["name"] for each in client.get(f"/sdapi/v1/{path}").json()]

    assert names("upscalers")[0] == "None"  # the latent ones are put behind the first
    assert UPSCALER in names("upscalers")
    assert "Latent" in names("latent-upscale-modes")
    assert "DPM++ 2M" in names("samplers")
    assert "karras" in names("schedulers")
    assert client.get("/sdapi/v1/sd-vae").json() == client.get("/sdapi/v1/sd-modules").json() == []
    assert "forge_preset" not in client.get("/sdapi/v1/options").json()
    assert client.get("/sdapi/v1/progress").json()["state"]["job_count"] == 0
    for path in ("refresh-loras", "refresh-checkpoints", "refresh-vae"):
        assert client.post(f"/sdapi/v1/{path}").status_code == 200


def test_silly_taverns_settings_are_in_the_image_and_nothing_is_warned_of(client: httpx2.Client) -> None:
    plain = ask_silly_tavern(client)
    assert plain.warnings == []
    assert "Sampler: DPM++ 2M, Schedule type: Karras" in plain.text
    skipped = ask_silly_tavern(client, clip_skip=2, override_settings={"CLIP_stop_at_last_layers": 2})
    assert skipped.differs_from(plain)
    assert "Clip skip: 2" in skipped.text
    inked = ask_silly_tavern(client, prompt=f"a cat <lora:{LORA}:0.6>")
    assert inked.differs_from(plain)


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"hr_scale": 1}, (64, 64)),
        ({"hr_scale": 1.1}, (64, 64)),  # 70, rounded down as there
        ({"hr_scale": 1.5, "hr_upscaler": "None"}, (96, 96)),
        ({"hr_scale": 2, "hr_upscaler": UPSCALER, "hr_second_pass_steps": 4}, (128, 128)),
    ],
)
def test_silly_taverns_hires_fix_gives_the_size_of_its_slider(
    client: httpx2.Client, settings: dict[str, Any], size: tuple[int, int]
) -> None:
    result = ask_silly_tavern(client, enable_hr=True, **settings)
    assert result.image.size == size
    assert f"Hires upscaler: {settings.get('hr_upscaler', 'Latent')}" in result.text
    assert ask_silly_tavern(client, enable_hr=False, **settings).image.tobytes() != result.image.tobytes()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"restore_faces": True}, "restore_faces"),
        (
            {"alwayson_scripts": {"ADetailer": {"args": [True, True, {"ad_model": "face_yolov8n.pt"}]}}},
            "alwayson_scripts.ADetailer",
        ),
        ({"override_settings": {"sd_vae": "other.safetensors"}}, "override_settings.sd_vae"),
        ({"scheduler": "normal"}, "scheduler"),
        ({"enable_hr": True, "hr_upscaler": "R-ESRGAN 4x+"}, "enable_hr"),
        ({"prompt": "a cat <lora:clay:1>"}, "prompt"),
    ],
)
def test_what_silly_tavern_offers_and_there_isnt_is_refused_by_its_name(
    client: httpx2.Client, settings: dict[str, Any], named: str
) -> None:
    refused = client.post("/sdapi/v1/txt2img", json={**SILLY_TAVERN, **settings})
    assert (refused.status_code, refused.json()["errors"]) == (422, named)


def test_no_answer_repeats_the_password_that_silly_tavern_sends_along(client: httpx2.Client) -> None:
    answer = client.post("/sdapi/v1/txt2img", json=SILLY_TAVERN)
    assert "user:password" not in answer.text
