"""ControlNets in the APIs, by clients of each: what they send, what reaches the job, what is refused."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx2
import numpy as np
import pytest
from easel_contract.add_ons import AddOnsConfig, ControlNetConfig, PreprocessorConfig
from easel_contract.server_config import SyntheticConfig
from easel_server.engine.synthetic_engine import SyntheticEngine
from easel_server.gateway.preprocessing import PREPROCESSORS, match_colors, preprocess
from easel_server.generation.add_ons import ControlMode, ControlPasses, ControlType, ControlUse, HiresPass
from easel_server.generation.cost import control_units
from easel_server.generation.encoding import read_description, read_recipe_text
from easel_server.generation.recipes.infotext import read_infotext
from PIL import Image
from webuiapi import ControlNetUnit, WebUIApi  # type: ignore[import-untyped]

from tests.inference_server.api.serving import MODEL, RunningGateway
from tests.support.client_images import encoded, halves
from tests.support.tiny_engine import tiny_engine, tiny_parameters

ADD_ONS = AddOnsConfig(
    control_nets=(
        ControlNetConfig(name="control_v11p_sd15_canny", source="/weights/canny"),
        ControlNetConfig(name="tile", source="/weights/tile"),
        ControlNetConfig(name="xinsir-union", source="/weights/union"),
    ),
    preprocessors=(PreprocessorConfig(name="Depth_Anything", source="/weights/depth"),),
)
HALVES = halves((64, 64))
ENCODED = base64.b64encode(encoded(HALVES)).decode()
SMALL = {"width": 64, "height": 64, "steps": 2}


@pytest.fixture(scope="module")
def gateway() -> Iterator[RunningGateway]:
    engine = SyntheticEngine(MODEL, SyntheticConfig(milliseconds_per_image=1))
    with RunningGateway(engine=engine, add_ons=ADD_ONS) as running:
        yield running


@pytest.fixture(scope="module")
def client(gateway) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=gateway.url, timeout=30) as client:
        yield client


@contextmanager
def connected(gateway: RunningGateway) -> Iterator[WebUIApi]:
    parts = urlsplit(gateway.url)
    api = WebUIApi(host=parts.hostname, port=parts.port)
    with api.session:
        yield api


@pytest.fixture(scope="module")
def api(gateway) -> Iterator[WebUIApi]:
    with connected(gateway) as api:
        yield api


def recipe_of(image: Image.Image) -> dict[str, Any]:
    return json.loads(read_recipe_text(image))["parameters"]


def unit(**changes: object) -> dict[str, object]:
    return {"image": ENCODED, "module": "canny", "model": "tile", **changes}


def post(client: httpx2.Client, *units: object, path: str = "txt2img", **body: Any) -> httpx2.Response:
    scripts = {"controlnet": {"args": list(units)}}
    return client.post(f"/sdapi/v1/{path}", json={"prompt": "a cat", **SMALL, **body, "alwayson_scripts": scripts})


def test_webuiapis_unit_reaches_a_real_model_and_its_recipe_is_the_same_image_again(tmp_path) -> None:
    engine = tiny_engine("sd15")  # loads torch
    from tests.support.tiny_models import build_sd15_controlnet  # noqa: PLC0415  # loads torch

    pipeline: Any = build_sd15_controlnet()
    pipeline.components["controlnet"].save_pretrained(tmp_path)
    offered = AddOnsConfig(control_nets=(ControlNetConfig(name="control_v11p_sd15_canny", source=str(tmp_path)),))
    with RunningGateway(engine=engine, add_ons=offered) as running, connected(running) as api:
        [shown] = api.controlnet_model_list()
        assert shown.startswith("control_v11p_sd15_canny [")
        canny = ControlNetUnit(image=HALVES, module="canny", model=shown, weight=0.6, guidance_end=0.5, control_mode=2)
        plain = api.txt2img(prompt="a cat", seed=5, **SMALL).image
        scripts: dict[str, Any] = {}  # the package keeps units in its default, for all calls after this one
        result = api.txt2img(prompt="a cat", seed=5, controlnet_units=[canny], alwayson_scripts=scripts, **SMALL)
        assert result.image.tobytes() != plain.tobytes()
        [control] = recipe_of(result.image)["controls"]
        del control["imageDigest"], control["key"]
        said = {"weight": 0.6, "end": 0.5, "mode": "ControlNet is more important"}
        assert {"name": "control_v11p_sd15_canny", "start": 0.0, **said}.items() >= control.items() >= said.items()
        text = 'ControlNet 0: "Module: none, Model: control_v11p_sd15_canny, Weight: 0.6'
        assert text in result.info["infotexts"][0]
        for written in (read_recipe_text(result.image), read_description(result.image)):
            refused = httpx2.post(f"{running.url}/v1/images/generations", json={"recipe": written})
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "controlnet")
            assert "needs the control image of 'control_v11p_sd15_canny'" in refused.json()["error"]["message"]
        given = {
            "model": "control_v11p_sd15_canny",
            "preprocessor": "canny",
            "image": f"data:image/png;base64,{ENCODED}",
        }
        body = {"recipe": read_recipe_text(result.image), "controlnet": [given | said]}
        again = httpx2.post(f"{running.url}/v1/images/generations", json=body, timeout=60)
        assert again.headers["X-Cache"] == "hit", again.text


def test_webuiapis_detect_gives_what_a_preprocessor_makes(api) -> None:
    [edges] = api.controlnet_detect([HALVES], module="canny", processor_res=64, threshold_a=100, threshold_b=200).images
    assert np.array_equal(np.asarray(edges.convert("RGB")), np.asarray(preprocess("canny", HALVES, (100, 200))))


def test_control_types_group_what_there_is(client) -> None:
    types = client.get("/controlnet/control_types").json()["control_types"]
    assert types["Canny"]["module_list"][:2] == ["none", "canny"]
    assert [name.partition(" ")[0] for name in types["Canny"]["model_list"]] == [
        "None",
        "control_v11p_sd15_canny",
        "xinsir-union",
    ]
    assert "xinsir-union" in str(types["SoftEdge"]["model_list"])  # one for all kinds
    assert client.get("/controlnet/version").json() == {"version": 2}
    assert client.get("/controlnet/settings").json() == {"control_net_unit_count": 3}


def test_the_same_control_image_again_is_the_same_request_and_another_is_not(client) -> None:
    first, again = (post(client, unit(), seed=3) for _ in range(2))
    assert (first.headers["X-Cache"], again.headers["X-Cache"]) == ("miss", "hit")
    for changes in ({"threshold_a": 30, "module": "threshold"}, {"weight": 0.5}, {"control_mode": "1"}):
        assert post(client, unit(**changes), seed=3).headers["X-Cache"] == "miss", changes


def test_an_image_to_begin_with_is_the_control_image_where_none_is_given(client) -> None:
    begun: dict[str, Any] = {"path": "img2img", "init_images": [ENCODED], "seed": 4}
    assert post(client, unit(image=""), **begun).headers["X-Cache"] == "miss"
    assert post(client, unit(), **begun).headers["X-Cache"] == "hit"


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"module": "openpose"}, "module", "allowed are none, canny"),
        ({"module": "openpose"}, "module", "recolor_intensity, Depth_Anything, or send"),
        ({"model": "depth"}, "", "allowed are control_v11p_sd15_canny, tile, xinsir-union"),
        ({"model": "None"}, "model", "a preprocessor alone changes nothing"),
        ({"threshold_a": 999}, "threshold_a", "Low Threshold of canny is allowed from 1 to 255"),
        ({"weight": "much"}, "weight", "allowed is a number"),
        ({"weight": -1}, "", "has a weight of -1.0"),
        ({"guidance_start": 0.9, "guidance_end": 0.1}, "", "has a say from 0.9 to 0.1"),
        ({"resize_mode": "Twist"}, "resize_mode", "just resize"),
        ({"control_mode": 7}, "control_mode", "balanced"),
        ({"mask": "aGVsbG8="}, "mask", "isn't offered here"),
        ({"image": "aGVsbG8="}, "image", "no image that can be read"),
        ({"image": "http://10.0.0.1/a.png"}, "image", "web address"),
        ({"image": None}, "image", "needs a control image"),
    ],
)
def test_what_cant_be_done_is_refused_by_its_name(client, changes, field, said) -> None:
    answer = post(client, unit(**changes))
    assert answer.status_code in (400, 422)
    text = json.dumps(answer.json(), ensure_ascii=False)
    assert said in text
    assert f"alwayson_scripts.controlnet.args{'[0].' + field if field else ''}" in text


def test_more_than_the_limit_and_units_that_are_off(client) -> None:
    assert "asks for 4 ControlNets, allowed are 3" in post(client, *[unit()] * 4).text
    quiet = post(client, unit(), {"enabled": False, "module": "openpose"}, {}, None)
    assert quiet.status_code == 200, quiet.text
    assert json.loads(quiet.json()["info"])["infotexts"][0].count("ControlNet") == 1
    assert quiet.json()["parameters"]["alwayson_scripts"]["controlnet"]["args"][0]["image"] is None


def test_predictions_name_them_as_replicates_models_do(client) -> None:
    image = f"data:image/png;base64,{ENCODED}"
    for fields in (
        {"controlnet": "tile", "control_image": image, "controlnet_conditioning_scale": 0.4},
        {"controlnet_1": "tile", "controlnet_1_image": image, "controlnet_1_conditioning_scale": 0.4},
        {"controlnet": [{"model": "tile", "image": image, "weight": 0.4}]},
    ):
        given = {"prompt": "a cat", "width": 64, "height": 64, "num_inference_steps": 2, "seed": 1, **fields}
        answer = client.post("/v1/predictions", json={"input": given}, headers={"Prefer": "wait=10"})
        assert answer.json()["status"] == "succeeded", answer.text
    assert answer.headers["X-Cache"] == "hit"  # all three asked for the same
    lost = client.post("/v1/predictions", json={"input": {"prompt": "a cat", "control_image": image}})
    assert "input.control_image" in lost.text


def test_preprocessors_are_opencvs_and_give_the_images_size() -> None:
    import cv2  # noqa: PLC0415  # for those tests only

    image = Image.merge("RGB", [Image.effect_noise((96, 64), sigma) for sigma in (20, 60, 90)])
    pixels = np.asarray(image)
    expected = {
        "canny": np.repeat(cv2.Canny(pixels, 50, 150)[:, :, None], 3, axis=2),
        "blur_gaussian": cv2.GaussianBlur(pixels, (0, 0), 50),
        "invert": 255 - pixels,
        "none": pixels,
    }
    for name, wanted in expected.items():
        assert np.array_equal(np.asarray(preprocess(name, image, (50, 150))), wanted), name
    for name in PREPROCESSORS:
        made = preprocess(name, image, (None, None))
        assert (made.size, made.mode) == (image.size, "RGB")
        assert made.tobytes() == preprocess(name, image, (None, None)).tobytes()
        assert name in ("none", "tile_resample") or made.tobytes() != image.tobytes(), name


def test_beside_a_second_pass_each_api_says_in_which_a_controlnet_counts(client) -> None:
    hires: dict[str, Any] = {"enable_hr": True, "hr_scale": 2, "denoising_strength": 0.6}
    answers = {
        option: post(client, unit(hr_option=option), seed=6, **hires)
        for option in ("Both", "Low res only", "High res only")
    }
    for option, answer in answers.items():
        assert answer.status_code == 200, answer.text
        assert answer.headers["X-Cache"] == "miss", option  # each is another image
        text = json.loads(answer.json()["info"])["infotexts"][0]
        assert [each["passes"] for each in read_infotext(text).given["controls"]] == [option]
        given = {"model": "tile", "preprocessor": "canny", "image": f"data:image/png;base64,{ENCODED}"}
        body = {"recipe": text, "controlnet": [given | {"hr_option": option}]}
        again = client.post("/v1/images/generations", json=body)
        assert again.headers["X-Cache"] == "hit", again.text
    assert "high res only" in post(client, unit(hr_option="Sometimes"), **hires).text
    # Without a second pass it says nothing.
    assert post(client, unit(hr_option="High res only"), seed=6).headers["X-Cache"] == "miss"
    assert post(client, unit(), seed=6).headers["X-Cache"] == "hit"


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ({"model": "xinsir-union"}, "Hard Edge"),  # what canny makes
        ({"model": "xinsir-union", "module": "tile_resample"}, "Tile"),
        ({"model": "xinsir-union", "module": "none", "union_control_type": "Depth"}, "Depth"),
        ({"model": "xinsir-union", "union_control_type": "Unknown"}, "Hard Edge"),
        ({"model": "xinsir-union", "module": "none"}, None),
        ({"model": "tile"}, None),
    ],
)
def test_a_union_controlnet_takes_what_the_preprocessor_makes_or_the_client_says(client, asked, given) -> None:
    answer = post(client, unit(**asked))
    assert answer.status_code == 200, answer.text
    text = json.loads(answer.json()["info"])["infotexts"][0]
    assert [each["control_type"] for each in read_infotext(text).given["controls"]] == [given]
    assert "depth" in post(client, unit(union_control_type="Smell")).text


def test_a_configured_preprocessor_is_left_to_the_worker_and_its_own_part_of_the_request(client) -> None:
    depth = post(client, unit(model="xinsir-union", module="depth_anything"), seed=8)
    assert depth.status_code == 200, depth.text
    text = json.loads(depth.json()["info"])["infotexts"][0]
    assert "Module: Depth_Anything" in text
    assert read_infotext(text).given["controls"][0]["control_type"] == ControlType.DEPTH
    raw = post(client, unit(model="xinsir-union", module="none", union_control_type="Depth"), seed=8)
    assert (depth.headers["X-Cache"], raw.headers["X-Cache"]) == ("miss", "miss")  # the same image, as it was sent
    given = {"model": "xinsir-union", "preprocessor": "Depth_Anything", "image": f"data:image/png;base64,{ENCODED}"}
    body = {"prompt": "a cat", "size": "64x64", "num_inference_steps": 2, "seed": 8, "controlnet": [given]}
    answer = client.post("/v1/images/generations", json=body)
    assert answer.headers["X-Cache"] == "hit", answer.text


def test_front_ends_are_shown_configured_preprocessors_as_of_depth(client) -> None:
    modules = client.get("/controlnet/module_list").json()
    assert modules["module_detail"]["Depth_Anything"] == {"model_free": False, "sliders": []}
    types = client.get("/controlnet/control_types").json()["control_types"]
    assert types["Depth"]["module_list"] == ["none", "Depth_Anything"]
    assert types["Depth"]["default_option"] == "Depth_Anything"
    assert "Depth_Anything" in types["All"]["module_list"]
    assert "Depth_Anything" not in types["Canny"]["module_list"]


def test_a_controlnets_passes_are_counted() -> None:
    use = ControlUse(name="tile", image_digest="0" * 64)
    job = tiny_parameters(steps=2, controls=(use,))
    assert control_units(job) == pytest.approx(2 * 2 * 64 * 64 / 2**20)  # steps, halves of guidance, pixels
    guess = use.model_copy(update={"mode": ControlMode.CONTROL})  # of the prompt's half only
    assert control_units(job.model_copy(update={"controls": (use, guess)})) == pytest.approx(3 * 2 * 64 * 64 / 2**20)
    assert control_units(tiny_parameters()) == 0
    hires = HiresPass(width_pixels=128, height_pixels=128, upscaler="Latent", strength=0.5)
    counts = {"Both": 2 + 4, "Low res only": 2, "High res only": 4}  # in passes over the first size, a half of guidance
    for option, count in counts.items():
        use = ControlUse(name="tile", image_digest="0" * 64, passes=ControlPasses(option))
        job = tiny_parameters(steps=2, controls=(use,), hires=hires)
        assert control_units(job) == pytest.approx(count * 2 * 64 * 64 / 2**20)
    made = use.model_copy(update={"preprocessor": "depth", "preprocessor_key": "0" * 16})
    plain, more = (control_units(tiny_parameters(steps=2, controls=(each,))) for each in (use, made))
    assert more - plain == pytest.approx(518 * 518 / 2**20)  # what a network for depth sees


def test_matched_colours_keep_the_images_own_lightness() -> None:
    import cv2  # noqa: PLC0415  # for those tests only

    noise = Image.merge("RGB", [Image.effect_noise((96, 64), sigma) for sigma in (20, 40, 60)])
    like = halves((64, 48), "darkgreen", "khaki")
    matched = match_colors(noise, like)
    own, got, wanted = (cv2.cvtColor(np.asarray(each), cv2.COLOR_RGB2LAB) for each in (noise, matched, like))
    assert matched.size == noise.size
    assert np.abs(got[..., 0].astype(int) - own[..., 0]).mean() < 4  # some colours aren't RGB's at some lightness
    for channel in (1, 2):
        assert abs(got[..., channel].mean() - wanted[..., channel].mean()) < abs(
            own[..., channel].mean() - wanted[..., channel].mean()
        )
    same = np.asarray(match_colors(like, like), dtype=int)
    assert np.abs(same - np.asarray(like)).max() <= 3  # rounding in 8 bits of CIELAB


@pytest.mark.parametrize("api", ["openai", "replicate"])
def test_one_controlnet_needs_no_list_around_it(client: httpx2.Client, gateway: RunningGateway, api: str) -> None:
    one = {"model": "tile", "image": f"data:image/png;base64,{ENCODED}", "weight": 0.5}
    answers = []
    for given in (one, [one]):
        body = {"prompt": "a cat", "seed": 7, "controlnet": given}
        if api == "openai":
            answers.append(client.post("/v1/images/generations", json={**body, "size": "64x64"}))
        else:
            asked = {"input": {**body, "width": 64, "height": 64}}
            answers.append(client.post("/v1/predictions", json=asked, headers={"Prefer": "wait=60"}))
    assert [each.is_success for each in answers] == [True, True], answers[0].text
    first, second = (each.json()["data"] if api == "openai" else each.json()["input"] for each in answers)
    assert first == second
    assert answers[1].headers["X-Cache"] in {"hit", "shared"}, "the same request"
