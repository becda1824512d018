"""Krita's plug-in that speaks AUTOMATIC1111's API, by the requests that it sends, to a real model.

Cyanic SD, https://github.com/DrCyanide/cyanic-sd-krita, commit 5678aa1 of 29 July 2024: `sdapi_v1.py` says what it asks
for and renames, `pages/` and `widgets/` what they hold, `extension_widgets/controlnet.py` ControlNet's units. Krita
itself isn't here: bodies and their defaults are the plug-in's, the canvas and its selection are ours. It sends no key.
"""

from collections.abc import Iterator
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

from tests.clients.answers import Result, open_base64, read_result, to_base64
from tests.clients.conftest import CONTROL_NET, LORA, UPSCALER
from tests.inference_server.api.serving import MODEL, RunningGateway
from tests.support.client_images import halves

pytestmark = pytest.mark.torch

CANVAS = (163, 131)  # any size: programs for painting know no multiples of 8
GENERATED = (160, 128)
# What all its pages send, from its default settings, after it has renamed it.
COMMON: dict[str, Any] = {
    "width": CANVAS[0],
    "height": CANVAS[1],
    "prompt": "a cat",
    "negative_prompt": "blurry",
    "cfg_scale": 7,
    "steps": 3,
    "sampler_name": "Euler a",
    "seed": 5,
    "subseed": -1,
    "subseed_strength": 0.0,
    "n_iter": 1,
    "batch_size": 1,
    "override_settings": {"sd_model_checkpoint": MODEL, "sd_vae": "None"},
    "override_settings_restore_afterwards": False,
}
CORRECTED = {**COMMON["override_settings"], "img2img_color_correction": True}  # the plug-in's default
UNIT: dict[str, Any] = {
    "enabled": True,
    "module": "canny",
    "weight": 1.0,
    "resize_mode": "Crop and Resize",
    "lowvram": False,
    "processor_res": 512,
    "threshold_a": -2,  # where nobody has moved a slider
    "threshold_b": -3,
    "guidance_start": 0.0,
    "guidance_end": 1.0,
    "control_mode": "Balanced",
    "pixel_perfect": True,
}
MASKED: dict[str, Any] = {
    "denoising_strength": 0.7,
    "mask_blur": 4,
    "inpainting_mask_invert": 0,
    "inpainting_fill": 1,
    "inpaint_full_res": 0,
    "inpaint_full_res_padding": 8,
}
PAINTING = halves(CANVAS, "darkgreen", "khaki")
SELECTED = (64, 48, 112, 96)


class Krita:
    """The plug-in's requests."""

    def __init__(self, client: httpx2.Client) -> None:
        self._client = client

    def get(self, path: str) -> Any:
        answer = self._client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def send(self, page: str, **fields: Any) -> httpx2.Response:
        return self._client.post(f"/sdapi/v1/{page}", json={**COMMON, **fields})

    def txt2img(self, **fields: Any) -> Result:
        return read_result(self.send("txt2img", **{"enable_hr": False, **fields}))

    def img2img(self, **fields: Any) -> Result:
        return read_result(self.send("img2img", init_images=[to_base64(PAINTING)], denoising_strength=0.7, **fields))

    def inpaint(self, **fields: Any) -> Result:
        mask = Image.new("RGB", CANVAS)
        mask.paste("white", SELECTED)
        images = {"init_images": [to_base64(PAINTING)], "mask": to_base64(mask)}
        return read_result(self.send("img2img", **images, **{**MASKED, **fields}))

    def detect(self, body: dict[str, Any]) -> list[Image.Image]:
        answer = self._client.post("/controlnet/detect", json=body)
        assert answer.status_code == 200, answer.text
        return [open_base64(each).convert("RGB") for each in answer.json()["images"]]

    def enlarge(self, body: dict[str, Any]) -> Image.Image:
        answer = self._client.post("/sdapi/v1/extra-single-image", json={"override_settings": {}, **body})
        assert answer.status_code == 200, answer.text
        return open_base64(answer.json()["image"])

    def unit(self, image: Image.Image, **changes: Any) -> dict[str, Any]:
        """Always-on scripts with one of ControlNet's units, chosen from the lists as the plug-in does it."""
        [shown] = self.get("/controlnet/model_list?update=true")["model_list"]
        unit = {**UNIT, "model": shown, "image": {"image": to_base64(image)}, **changes}
        return {"controlnet": {"args": [unit]}}


@pytest.fixture(scope="module")
def krita(service: RunningGateway) -> Iterator[Krita]:
    with service.client(**{"Cache-Control": "no-store"}) as client:
        yield Krita(client)


def test_krita_sees_that_there_is_a_service(krita: Krita) -> None:
    assert krita.get("/queue/status")["queue_size"] == 0  # without an answer it shows nothing else
    assert [each["title"] for each in krita.get("/sdapi/v1/sd-models")] == [MODEL]
    assert krita.get("/sdapi/v1/options")["sd_model_checkpoint"] == MODEL
    assert "Euler a" in [each["name"] for each in krita.get("/sdapi/v1/samplers")]
    assert UPSCALER in [each["name"] for each in krita.get("/sdapi/v1/upscalers")]
    assert [each["name"] for each in krita.get("/sdapi/v1/loras")] == [LORA]
    for name in ("face-restorers", "prompt-styles", "sd-vae", "hypernetworks"):
        assert krita.get(f"/sdapi/v1/{name}") == []
    assert krita.get("/sdapi/v1/embeddings")["loaded"] == {}


def test_krita_shows_controlnet_because_it_is_among_the_scripts(krita: Krita) -> None:
    scripts = krita.get("/sdapi/v1/scripts")
    assert all("controlnet" in scripts[page] for page in ("txt2img", "img2img"))
    assert "adetailer" not in str(scripts)
    assert krita.get("/controlnet/settings")["control_net_unit_count"] >= 1
    listed = krita.get("/controlnet/module_list?alias_names=true")
    assert all({"model_free", "sliders"} <= set(listed["module_detail"][name]) for name in listed["module_list"])
    [low, high] = listed["module_detail"]["canny"]["sliders"]
    assert (low["name"], low["min"], low["max"], high["value"]) == ("Low Threshold", 1, 255, 200)
    every = krita.get("/controlnet/control_types")["control_types"]["All"]
    assert every["default_option"] in every["module_list"]
    assert every["default_model"] in every["model_list"]


def test_a_selection_of_any_size_is_generated_as_the_next_smaller_one_and_said(krita: Krita) -> None:
    result = krita.txt2img()
    assert result.image.size == GENERATED
    assert "width: 163 is taken for 160, a multiple of 8; height: 131 is taken for 128" in result.warnings[0]


def test_a_lora_from_its_list_is_in_the_prompt_and_in_the_image(krita: Krita) -> None:
    plain, inked = krita.txt2img(), krita.txt2img(prompt=f"a cat <lora:{LORA}:1.0>")
    assert inked.differs_from(plain)
    assert inked.text.startswith(f"a cat <lora:{LORA}:1>\n")
    refused = krita.send("txt2img", prompt="a cat <lora:clay:1.0>")
    assert (refused.status_code, LORA in refused.json()["detail"]) == (422, True)


def test_a_large_selection_is_generated_small_and_refined(krita: Krita) -> None:
    """Its automatic hires fix: sides of the first pass in the selection's proportions, whatever they come to."""
    sides = {"width": 95, "height": 77, "hr_resize_x": CANVAS[0], "hr_resize_y": CANVAS[1]}
    hires = {"enable_hr": True, "hr_upscaler": "Latent", "hr_second_pass_steps": 0, "denoising_strength": 0.7}
    result = krita.txt2img(**sides, **hires)
    assert result.image.size == GENERATED
    assert "Size: 88x72, " in result.text
    assert "Hires resize: 160x128, Hires upscaler: Latent" in result.text
    enlarged = krita.txt2img(**sides, **{**hires, "hr_upscaler": UPSCALER})
    assert f"Hires upscaler: {UPSCALER}" in enlarged.text
    assert enlarged.differs_from(result)


def test_controlnet_holds_the_image_to_what_is_painted(krita: Krita) -> None:
    plain, held = krita.txt2img(), krita.txt2img(alwayson_scripts=krita.unit(PAINTING))
    assert held.differs_from(plain)
    assert f"Model: {CONTROL_NET}, Weight: 1.0" in held.text
    weaker = krita.txt2img(alwayson_scripts=krita.unit(PAINTING, weight=0.4))
    assert weaker.differs_from(held)
    own = krita.txt2img(alwayson_scripts=krita.unit(PAINTING, threshold_a=100, threshold_b=200))
    assert not own.differs_from(held), "sliders that nobody has moved are the preprocessor's own"


def test_the_preview_of_a_preprocessor_is_what_it_makes(krita: Krita) -> None:
    body = {
        "controlnet_module": "invert (from white bg & black line)",
        "controlnet_input_images": [to_base64(PAINTING)],
        "controlnet_processor_res": CANVAS[1],
        "controlnet_threshold_a": -2,
        "controlnet_threshold_b": -3,
    }
    [preview] = krita.detect(body)
    assert np.array_equal(np.asarray(preview), 255 - np.asarray(PAINTING))


def test_an_image_to_image_keeps_the_paintings_colours_where_that_is_asked_for(krita: Krita) -> None:
    """Which the plug-in does unless "Match Image Colors" was switched off."""

    def find_distance(image: Image.Image) -> float:
        means = (np.asarray(each.convert("RGB"), float).mean(axis=(0, 1)) for each in (image, PAINTING))
        first, second = (mean - mean.mean() for mean in means)  # colour without lightness
        return float(np.abs(first - second).max())

    free, matched = krita.img2img(), krita.img2img(override_settings=CORRECTED)
    assert matched.image.size == GENERATED
    assert find_distance(matched.image) < find_distance(free.image) / 2
    assert matched.text == free.text


def test_an_image_to_image_takes_loras_and_controlnet_too(krita: Krita) -> None:
    plain = krita.img2img()
    inked = krita.img2img(prompt=f"a cat <lora:{LORA}:1.0>")
    held = krita.img2img(alwayson_scripts=krita.unit(PAINTING))
    assert inked.differs_from(plain)
    assert held.differs_from(plain)
    assert "Denoising strength: 0.7" in held.text


@pytest.mark.parametrize("area", [0, 1], ids=["whole image", "only masked"])
def test_only_what_is_selected_is_painted_anew_with_controlnet_or_without(krita: Krita, area: int) -> None:
    plain = krita.inpaint(inpaint_full_res=area, mask_blur=0)
    held = krita.inpaint(inpaint_full_res=area, mask_blur=0, alwayson_scripts=krita.unit(PAINTING))
    assert held.differs_from(plain)
    assert CONTROL_NET in held.text
    if area:
        assert held.image.size == CANVAS
        outside = np.ones((CANVAS[1], CANVAS[0]), dtype=bool)
        outside[SELECTED[1] : SELECTED[3], SELECTED[0] : SELECTED[2]] = False
        assert np.array_equal(np.asarray(held.image)[outside], np.asarray(PAINTING)[outside])


def test_a_part_is_held_to_its_own_part_of_the_control_image(krita: Krita) -> None:
    """As is a control image of the painting that is cut out beforehand."""
    noise = Image.effect_noise(CANVAS, 90).convert("RGB")
    elsewhere = noise.copy()
    elsewhere.paste("black", (0, 0, 40, CANVAS[1]))  # far from what is selected
    here = noise.copy()
    here.paste("black", SELECTED)
    only: dict[str, Any] = {"inpaint_full_res": 1, "mask_blur": 0}
    held, same, other = (
        krita.inpaint(**only, alwayson_scripts=krita.unit(image, module="none", resize_mode="Just Resize"))
        for image in (noise, elsewhere, here)
    )
    assert not same.differs_from(held)
    assert other.differs_from(held)


@pytest.mark.parametrize(
    ("sized", "size"),
    [
        ({"resize_mode": 0, "upscaling_resize": 2}, (326, 262)),
        ({"resize_mode": 1, "upscaling_resize_w": 200, "upscaling_resize_h": 160}, (200, 160)),
    ],
)
def test_the_canvas_is_enlarged(krita: Krita, sized: dict[str, Any], size: tuple[int, int]) -> None:
    common = {"upscaling_resize": 1, "upscaling_resize_w": 512, "upscaling_resize_h": 512, "upscaling_crop": True}
    body = {"image": to_base64(PAINTING), **common, **sized}
    networks, filters = (krita.enlarge({**body, "upscaler_1": name}) for name in (UPSCALER, "Lanczos"))
    assert networks.size == filters.size == size
    assert networks.tobytes() != filters.tobytes()


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"alwayson_scripts": {"Soft Inpainting": {"args": [True, 1, 0.5, 4, 0, 0.5, 2]}}}, "Soft Inpainting"),
        ({"alwayson_scripts": {"ADetailer": {"args": [{"ad_model": "face_yolov8n.pt"}]}}}, "ADetailer"),
        ({"refiner_checkpoint": "other", "refiner_switch_at": 0.8}, "refiner_checkpoint"),
        ({"subseed_strength": 0.5}, "subseed_strength"),
    ],
)
def test_what_krita_offers_and_there_isnt_is_refused_by_its_name(
    krita: Krita, fields: dict[str, Any], named: str
) -> None:
    refused = krita.send("txt2img", **fields)
    assert (refused.status_code, named in refused.json()["errors"]) == (422, True)
