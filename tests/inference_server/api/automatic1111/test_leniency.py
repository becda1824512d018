"""AUTOMATIC1111's clients send every field there is: what asks for nothing is accepted, all else is refused by name."""

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from easel_contract.add_ons import AddOnsConfig, ControlNetConfig
from easel_contract.gateway_config import DefaultsConfig, GatewayConfig
from easel_server.generation.add_ons import Feature
from easel_server.generation.tasks import Task
from PIL import Image

from tests.inference_server.api.serving import RunningGateway, wait_for
from tests.support.client_images import decoded, encoded, halves

IMAGE = base64.b64encode(encoded(halves())).decode()
SMALL: dict[str, Any] = {"prompt": "a lenient cat", "width": 64, "height": 64, "steps": 2}

# What front ends send, by their habits; "IMAGE" stands for an image. Which fields there are:
# https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/API
FRONT_ENDS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "front_ends.json").read_text())
IMAGES = {
    "base64 that is broken into lines": "\r\n".join(IMAGE[i : i + 76] for i in range(0, len(IMAGE), 76)) + "\n",
    "a data URL": f"data:image/png;base64,{IMAGE}",
    "a data URL with a parameter": f"data:image/png;charset=utf-8;base64,{IMAGE}",
}


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_what_front_ends_send_is_accepted(client, front_end):
    body = {**SMALL, **FRONT_ENDS[front_end]}
    if "init_images" in body:
        body["init_images"] = [IMAGE]
    answer = client.post(f"/sdapi/v1/{'img2img' if 'init_images' in body else 'txt2img'}", json=body)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["images"]) == 1
    assert json.loads(answer.json()["info"])["prompt"] == "a lenient cat"


@pytest.mark.parametrize("case", IMAGES)
def test_an_image_is_read_however_its_base64_was_written(client, case):
    answer = client.post("/sdapi/v1/img2img", json={**SMALL, "init_images": [IMAGES[case]]})
    assert answer.status_code == 200, answer.text


ASKS: dict[str, tuple[str, Any, str]] = {
    "faces, as a text": ("restore_faces", "True", "restore_faces"),
    "a second seed, as a text": ("subseed_strength", "0.5", "subseed_strength"),
    "a seed of another size": ("seed_resize_from_h", 512, "seed_resize_from_h"),
    "churn": ("s_churn", 5, "s_churn"),
    "a script's name": ("script_name", "X/Y/Z plot", "script_name"),
    "a style among empty ones": ("styles", ["", "film"], "styles"),
    "a refiner": ("refiner_checkpoint", "refiner", "refiner_checkpoint"),
    "a recipe cut off": ("infotext", "{", "infotext"),
    "half of a sampler's chance": ("eta", 0.5, "eta"),
    "a script that is on": ("alwayson_scripts", {"ADetailer": {"args": [True, {"ad_model": "face"}]}}, "ADetailer"),
    "a unit without a switch": ("alwayson_scripts", {"ControlNet": {"args": [{"module": "reference"}]}}, "controlnet"),
    "a unit that is on behind one that is off": (
        "alwayson_scripts",
        {"ControlNet": {"args": [{"enabled": False}, {"enabled": True, "module": "canny"}]}},
        "controlnet",
    ),
    "a unit that is on behind an empty one": (
        "alwayson_scripts",
        {"ControlNet": {"args": [None, {"enabled": True, "module": "canny"}]}},
        "controlnet",
    ),
    "another VAE": ("override_settings", {"sd_vae": "other"}, "override_settings.sd_vae"),
    "another VAE, in a list": ("override_settings", {"sd_vae": ["other"]}, "override_settings.sd_vae"),
    "clip skip, in an object": ("override_settings", {"CLIP_stop_at_last_layers": {"layers": 2}}, "CLIP_stop_at_last"),
    "black behind transparency": ("override_settings", {"img2img_background_color": "#000000"}, "background_color"),
    "clip skip, as a text": ("override_settings", {"CLIP_stop_at_last_layers": "two"}, "CLIP_stop_at_last_layers"),
    "seeds with a distance": ("override_settings", {"eta_noise_seed_delta": 31337}, "eta_noise_seed_delta"),
    "merged tokens": ("override_settings", {"token_merging_ratio": 0.5}, "token_merging_ratio"),
}


@pytest.mark.parametrize("case", ASKS)
def test_what_would_change_the_image_is_refused_by_its_name_in_any_type(client, case):
    name, value, named = ASKS[case]
    answer = client.post("/sdapi/v1/txt2img", json={**SMALL, "sampler_name": "Euler a", name: value})
    assert answer.status_code == 422
    assert named in answer.json()["detail"]
    assert set(answer.json()) == {"error", "detail", "body", "errors"}


def test_all_that_is_refused_is_named_at_once(client):
    answer = client.post("/sdapi/v1/txt2img", json={**SMALL, "tiling": True, "restore_faces": True, "s_churn": 1})
    assert answer.json()["errors"] == "restore_faces; tiling; s_churn"


def test_a_mask_is_blurred_sideways_as_asked(gateway):
    """AUTOMATIC1111 has two fields for it beside the one."""

    mask = Image.new("L", (64, 64))
    mask.paste(255, (24, 24, 40, 40))
    body = {
        **SMALL,
        "init_images": [IMAGE],
        "mask": base64.b64encode(encoded(mask)).decode(),
        "inpaint_full_res": False,
    }
    with gateway.client() as client:
        answer = client.post("/sdapi/v1/img2img", json={**body, "mask_blur_x": 0, "mask_blur_y": 8})
    assert answer.status_code == 200
    claim = gateway.worker.claims[-1]
    blurred = decoded(claim.inputs[claim.job.parameters.mask_digest])
    assert blurred.crop((32, 22, 33, 23)).tobytes() != b"\0", "up and down it is soft"
    assert blurred.crop((22, 32, 23, 33)).tobytes() == b"\0", "sideways it is sharp"


CONTROLNET_LISTS = {
    "model_list": {"model_list": []},
    "module_list": {"module_list": [], "module_detail": {}},
    "control_types": {"control_types": {}},
    "settings": {"control_net_unit_count": 0},
}


@pytest.mark.parametrize("name", CONTROLNET_LISTS)
def test_a_front_end_with_controlnet_sees_that_there_is_nothing_of_it(client, name):
    assert client.get(f"/controlnet/{name}").json() == CONTROLNET_LISTS[name]


@pytest.mark.parametrize(
    ("method", "path", "sentence"),
    [
        ("POST", "/sdapi/v1/interrogate", "images aren't described here"),
        ("POST", "/sdapi/v1/unload-checkpoint", "serves one model"),
        ("POST", "/sdapi/v1/train/embedding", "nothing is trained here"),
        ("POST", "/sdapi/v1/server-kill", "by whoever runs it"),
        ("POST", "/controlnet/txt2img", "alwayson_scripts.controlnet"),
    ],
)
def test_what_is_not_offered_says_so_in_a_sentence(client, method, path, sentence):
    answer = client.request(method, path, json={} if method == "POST" else None)
    assert (answer.status_code, answer.json()["error"]) == (404, "not_offered")
    assert sentence in answer.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status", "sentence"),
    [
        ("GET", "/sdapi/v1/nonsense", 404, "there is no GET /sdapi/v1/nonsense here; /docs lists all that there is"),
        ("GET", "/controlnet/nonsense", 404, "there is no GET /controlnet/nonsense here; /docs lists"),
        ("GET", "/sdapi/v1/txt2img", 405, "there is no GET /sdapi/v1/txt2img here, but there is POST; /docs lists"),
    ],
)
def test_an_unknown_address_says_more_than_not_found(client, method, path, status, sentence):
    answer = client.request(method, path)
    assert answer.status_code == status
    assert sentence in answer.json()["detail"]


def test_options_may_be_set_that_change_no_image(client):
    """A front end reads all options, changes the model's name, and sends all of them back."""
    options = client.get("/sdapi/v1/options").json()
    harmless = {"show_progress_every_n_steps": 5, "eta_noise_seed_delta": 0, "sd_vae": "None", "samples_save": True}
    assert client.post("/sdapi/v1/options", json={**options, **harmless}).status_code == 200
    refused = client.post("/sdapi/v1/options", json={**options, "eta_noise_seed_delta": 31337})
    assert (refused.status_code, refused.json()["errors"]) == (422, "eta_noise_seed_delta")


WARNED: dict[str, tuple[dict[str, Any], str]] = {
    "a field nobody knows": ({"magic": 1}, "unknown field without effect: 'magic'"),
    "several of them": ({"magic": 1, "wand": {"a": 1}}, "unknown fields without effect: 'magic', 'wand'"),
    "a setting nobody knows": ({"override_settings": {"magic": 1}}, "unknown setting without effect: 'magic'"),
    "a sampler's chance without a sampler": (
        {"eta": 0.5},
        "eta: 0.5 is without effect unless sampler_name is given",
    ),
    "no chance for a sampler that has some": (
        {"sampler_name": "Euler a", "eta": 0},
        "eta: 0 is taken for not given; Euler a has its eta of 1 here",
    ),
    "layers by a name that AUTOMATIC1111 doesn't know either": (
        {"clip_skips": 2},
        "unknown field without effect: 'clip_skips'",
    ),
}


@pytest.mark.parametrize("case", WARNED)
def test_what_has_no_effect_is_named_in_the_answer(client, case):
    given, warning = WARNED[case]
    answer = client.post("/sdapi/v1/txt2img", json={**SMALL, **given})
    assert answer.status_code == 200, answer.text
    assert json.loads(answer.json()["info"])["warnings"] == [warning]
    assert answer.headers["Warning"] == f'299 - "{warning}"'


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_front_ends_are_not_warned_of_what_they_always_send(client, front_end):
    body = {**SMALL, **FRONT_ENDS[front_end], "sampler_name": "Euler"}
    answer = client.post("/sdapi/v1/txt2img", json={name: value for name, value in body.items() if name != "eta"})
    unknown = {"an inpainting front end without a mask"}  # whose fields are img2img's
    assert front_end in unknown or "Warning" not in answer.headers, answer.headers["Warning"]


def test_any_number_of_unknown_fields_makes_one_short_warning(client):
    answer = client.post("/sdapi/v1/txt2img", json={**SMALL, **{f"{'x' * 1000}{number}": 1 for number in range(500)}})
    (warning,) = json.loads(answer.json()["info"])["warnings"]
    assert warning.startswith("unknown fields without effect: 'xxx")
    assert len(warning) <= 400


def test_an_option_nobody_knows_is_named(client):
    answer = client.post("/sdapi/v1/options", json={"magic": True})
    assert (answer.status_code, answer.headers["Warning"]) == (200, "299 - \"unknown setting without effect: 'magic'\"")


def test_lists_say_what_this_model_can_and_no_more():
    with RunningGateway() as gateway, gateway.client() as client:

        def read(name: str) -> Any:
            return client.get(f"/sdapi/v1/{name}").json()

        assert {each["name"] for each in read("schedulers")} >= {"automatic", "karras", "simple", "sgm_uniform"}
        gateway.facts = replace(gateway.facts, samplers=("Euler", "Euler Beta", "UniPC"))
        assert [each["name"] for each in read("schedulers")] == ["automatic", "uniform", "beta"]
        assert [each["name"] for each in read("samplers")] == ["Euler", "UniPC"]
        refused = client.post("/sdapi/v1/txt2img", json={**SMALL, "sampler_name": "Euler", "scheduler": "karras"})
        assert refused.json()["errors"] == "scheduler"


@pytest.mark.parametrize(
    ("configured", "features", "tasks", "listed"),
    [
        (True, tuple(Feature), tuple(Task), {"txt2img": ["controlnet"], "img2img": ["controlnet"]}),
        (True, tuple(Feature), (Task.TEXT_TO_IMAGE,), {"txt2img": ["controlnet"], "img2img": []}),
        (True, (), tuple(Task), {"txt2img": [], "img2img": []}),
        (False, tuple(Feature), tuple(Task), {"txt2img": [], "img2img": []}),
    ],
)
def test_controlnet_is_among_the_scripts_where_requests_may_ask_for_one(configured, features, tasks, listed):
    networks = (ControlNetConfig(name="tile", source="/weights/tile"),) if configured else ()
    with RunningGateway(add_ons=AddOnsConfig(control_nets=networks)) as gateway, gateway.client() as client:
        gateway.facts = replace(gateway.facts, features=features, tasks=tasks)
        assert client.get("/sdapi/v1/scripts").json() == listed
        described = client.get("/sdapi/v1/script-info").json()
    assert {(each["name"], each["is_alwayson"]) for each in described} <= {("controlnet", True)}
    assert [each["is_img2img"] for each in described] == [page == "img2img" for page, names in listed.items() if names]


def test_options_are_the_services_own_and_may_be_sent_back_as_they_are():
    with RunningGateway(GatewayConfig(defaults=DefaultsConfig(clip_skip=2))) as gateway, gateway.client() as client:
        options = client.get("/sdapi/v1/options").json()
        assert (options["CLIP_stop_at_last_layers"], options["jpeg_quality"]) == (2, 95)
        back = client.post("/sdapi/v1/options", json=options)
        assert (back.status_code, "Warning" in back.headers) == (200, False), back.text
        for changed in ({"CLIP_stop_at_last_layers": 3}, {"img2img_color_correction": True}):
            refused = client.post("/sdapi/v1/options", json={**options, **changed})
            assert (refused.status_code, refused.json()["errors"]) == (422, next(iter(changed)))


def test_gradios_queue_says_how_many_jobs_wait(gateway):
    with gateway.client() as client:
        assert client.get("/queue/status").json()["queue_size"] == 0
        gateway.call(gateway.worker.hold())
        client.post("/v1/predictions", json={"input": {"prompt": "a waiting cat"}})
        wait_for(lambda: client.get("/queue/status").json()["queue_size"] == 1)
    gateway.do(gateway.worker.go_on)


def test_a_threshold_below_0_is_the_preprocessors_own_and_an_alias_is_its_name(client):
    def detect(**body: Any) -> httpx2.Response:
        return client.post("/controlnet/detect", json={"controlnet_input_images": [IMAGE], **body})

    own = detect(controlnet_module="canny")
    unset = detect(controlnet_module="canny", controlnet_threshold_a=-2, controlnet_threshold_b=-3)
    assert own.json() == unset.json()
    alias = detect(controlnet_module="lineart_standard (from white bg & black line)")
    assert alias.json() == detect(controlnet_module="lineart_standard").json()
    assert detect(controlnet_module="openpose (full)").status_code == 422


def test_fields_of_txt2img_that_ask_for_nothing_are_silent_in_img2img_and_others_are_named(client):
    body = {**SMALL, "init_images": [IMAGE], "enable_hr": False, "hr_resize_x": 0, "hr_upscaler": None}
    quiet = client.post("/sdapi/v1/img2img", json=body)
    assert (quiet.status_code, "Warning" in quiet.headers) == (200, False), quiet.headers
    loud = client.post("/sdapi/v1/img2img", json={**body, "enable_hr": True})
    assert json.loads(loud.json()["info"])["warnings"] == ["unknown field without effect: 'enable_hr'"]


def test_sizes_are_rounded_to_what_the_model_takes():
    with RunningGateway() as gateway, gateway.client() as client:
        gateway.facts = replace(gateway.facts, defaults=replace(gateway.facts.defaults, family="Flux"))
        answer = client.post("/sdapi/v1/txt2img", json={**SMALL, "width": 104, "height": 96})
        parameters = gateway.worker.claims[-1].job.parameters
    assert (parameters.width_pixels, parameters.height_pixels) == (96, 96)
    assert json.loads(answer.json()["info"])["warnings"][0] == "width: 104 is taken for 96, a multiple of 16"
