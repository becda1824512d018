"""AUTOMATIC1111's API as the `webuiapi` package speaks it, drawn by the synthetic engine."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx2
import pytest
from easel_contract.server_config import SyntheticConfig
from easel_server.engine.synthetic_engine import SyntheticEngine
from easel_server.generation.tasks import Task
from PIL import Image
from webuiapi import HiResUpscaler, WebUIApi  # type: ignore[import-untyped]

from tests.inference_server.api.serving import MODEL, RunningGateway, wait_for
from tests.support.client_pictures import decoded, encoded, halves

SMALL = {"width": 64, "height": 64, "steps": 2}
LISTS: dict[str, object] = {
    "get_sd_vae": [],
    "get_upscalers": [],
    "get_latent_upscale_modes": [],
    "get_loras": [],
    "get_hypernetworks": [],
    "get_face_restorers": [],
    "get_realesrgan_models": [],
    "get_prompt_styles": [],
    "get_artist_categories": [],
    "get_artists": [],
    "get_scripts": {"txt2img": [], "img2img": []},
    "get_embeddings": {"loaded": {}, "skipped": {}},
    "refresh_checkpoints": None,
}


@contextmanager
def connected(gateway: RunningGateway, **options: str) -> Iterator[WebUIApi]:
    parts = urlsplit(gateway.url)
    api = WebUIApi(host=parts.hostname, port=parts.port, **options)
    with api.session:
        yield api


@pytest.fixture(scope="module")
def drawing_gateway() -> Iterator[RunningGateway]:
    with RunningGateway(engine=SyntheticEngine(MODEL, SyntheticConfig(milliseconds_per_image=1))) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def api(drawing_gateway) -> Iterator[WebUIApi]:
    with connected(drawing_gateway) as api:
        yield api


def test_an_image_is_drawn_from_a_prompt(api):
    result = api.txt2img(prompt="a cat", negative_prompt="a dog", seed=5, cfg_scale=6.5, **SMALL)
    assert result.image.size == (64, 64)
    assert (result.info["seed"], result.info["prompt"], result.info["negative_prompt"]) == (5, "a cat", "a dog")
    assert (result.info["sampler_name"], result.info["steps"], result.info["cfg_scale"]) == ("Euler a", 2, 6.5)
    assert result.info["sd_model_name"] == MODEL
    assert result.info["infotexts"][0].startswith("a cat\nNegative prompt: a dog\nSteps: 2, Sampler: Euler a")
    assert result.parameters["prompt"] == "a cat"


def test_batches_are_images_with_seeds_that_count_up(api):
    result = api.txt2img(prompt="cats", seed=5, batch_size=2, n_iter=2, **SMALL)
    assert len(result.images) == 4
    assert result.info["all_seeds"] == [5, 6, 7, 8]


def test_seed_minus_one_is_another_each_time(api):
    seeds = {api.txt2img(prompt="a cat", **SMALL).info["seed"] for _ in range(3)}
    assert len(seeds) == 3
    assert min(seeds) >= 0


def test_images_come_in_the_format_that_is_asked_for(api):
    result = api.txt2img(prompt="a cat", override_settings={"samples_format": "jpg"}, **SMALL)
    assert result.image.format == "JPEG"


def test_images_that_are_not_wanted_are_not_sent(api):
    result = api.txt2img(prompt="a cat", send_images=False, seed=5, **SMALL)
    assert (result.images, result.info["seed"]) == ([], 5)


def test_an_empty_prompt_is_drawn(api):
    assert api.txt2img(**SMALL).image.size == (64, 64)


@pytest.mark.parametrize(
    ("sampler", "scheduler", "expected"),
    [
        ("Euler a", "automatic", "Euler a"),
        ("DPM++ 2M", "automatic", "DPM++ 2M Karras"),
        ("DPM++ 2M", "Karras", "DPM++ 2M Karras"),
        ("DPM++ 2M", "uniform", "DPM++ 2M"),
        ("DPM++ 2M Karras", None, "DPM++ 2M Karras"),
    ],
)
def test_a_sampler_and_a_schedule_are_one_choice(gateway, sampler, scheduler, expected):
    body = {"prompt": "a sampled cat", "sampler_name": sampler, "scheduler": scheduler, **SMALL}
    with gateway.client() as client:
        assert client.post("/sdapi/v1/txt2img", json=body).status_code == 200
    assert gateway.worker.claims[-1].job.parameters.sampler == expected


def test_a_picture_is_drawn_over(api):
    result = api.img2img(images=[halves()], prompt="a cat", denoising_strength=0.6, **SMALL)
    assert result.image.size == (64, 64)
    assert result.info["denoising_strength"] == 0.6
    assert result.parameters["init_images"] is None


def test_only_what_the_mask_marks_changes(api):
    picture = halves((256, 128))
    mask = Image.new("L", picture.size)
    mask.paste(255, (32, 32, 64, 64))
    result = api.img2img(images=[picture], mask_image=mask, mask_blur=0, prompt="a patch", **SMALL)
    assert result.image.size == picture.size
    assert result.image.convert("RGB").crop((128, 0, 256, 128)).tobytes() == picture.crop((128, 0, 256, 128)).tobytes()
    patch = (32, 32, 64, 64)
    assert result.image.convert("RGB").crop(patch).tobytes() != picture.crop(patch).tobytes()


def test_the_whole_picture_is_drawn_with_its_mask(gateway):
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    body = {
        "init_images": [base64.b64encode(encoded(halves())).decode()],
        "mask": base64.b64encode(encoded(mask)).decode(),
        "mask_blur": 0,
        "inpainting_mask_invert": 1,
        "inpainting_fill": 1,
        "inpaint_full_res": False,
        "prompt": "an inverted cat",
        "steps": 4,
    }
    with gateway.client() as client:
        assert client.post("/sdapi/v1/img2img", json=body).status_code == 200
    claim = gateway.worker.claims[-1]
    parameters = claim.job.parameters
    assert (parameters.task, parameters.strength) == (Task.INPAINT, 0.75)
    redrawn = decoded(claim.inputs[parameters.mask_digest])
    assert (redrawn.getpixel((8, 8)), redrawn.getpixel((56, 8))) == (0, 255)


REFUSALS = {
    "a second pass": (
        {"enable_hr": True, "hr_upscaler": HiResUpscaler.Latent},
        "enable_hr: asks for something",
    ),
    "tiling": ({"tiling": True}, "tiling: asks for something that isn't offered here; allowed is False; got True"),
    "face restoration": ({"restore_faces": True}, "restore_faces"),
    "a script": ({"script_name": "X/Y/Z plot"}, "script_name"),
    "an extension": ({"alwayson_scripts": {"ControlNet": {"args": [{}]}}}, "alwayson_scripts"),
    "a second seed": ({"subseed_strength": 0.5}, "subseed_strength"),
    "styles": ({"styles": ["film"]}, "styles"),
    "another checkpoint": ({"override_settings": {"sd_model_checkpoint": "other"}}, "model 'other' is not served here"),
    "clip skip": ({"override_settings": {"CLIP_stop_at_last_layers": 2}}, "override_settings.CLIP_stop_at_last_layers"),
    "an unknown sampler": ({"sampler_name": "Fast"}, "sampler_name: is 'Fast', allowed are Euler, Euler a"),
    "an unknown schedule": ({"scheduler": "beta"}, "scheduler: is 'beta', allowed are automatic, uniform, karras"),
    "too many": ({"batch_size": 4, "n_iter": 4}, "batch_size * n_iter: is 16, allowed are 1 to 4"),
    "an odd size": ({"width": 65}, "width: is 65 pixels, allowed is a multiple of 8 from 64 to 2048"),
    "too many steps": ({"steps": 1000}, "steps: is 1000, allowed are 1 to 100"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_not_offered_is_refused_and_not_ignored(api, case):
    given, message = REFUSALS[case]
    with pytest.raises(RuntimeError) as caught:
        api.txt2img(**{"prompt": "a cat", **SMALL, **given})
    status, text = caught.value.args
    assert status in {404, 422}
    answer = json.loads(text)
    assert message in answer["detail"]
    assert set(answer) == {"error", "detail", "body", "errors"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"images": []}, "init_images"),
        ({"images": [halves(), halves()]}, "init_images"),
        ({"denoising_strength": 0}, "denoising_strength: is 0.0, allowed is more than 0 to 1"),
        ({"resize_mode": 3}, "resize_mode"),
        ({"mask_image": Image.new("L", (64, 64))}, "mask: marks nothing"),
    ],
)
def test_a_picture_that_cannot_be_drawn_over_is_refused(api, given, message):
    with pytest.raises(RuntimeError) as caught:
        api.img2img(**{"images": [halves()], "prompt": "a cat", **SMALL, **given})
    assert caught.value.args[0] == 422
    assert message in json.loads(caught.value.args[1])["detail"]


@pytest.mark.parametrize("name", LISTS)
def test_what_there_is_none_of_is_listed_in_its_shape(api, name):
    assert getattr(api, name)() == LISTS[name]


def test_what_there_is_is_listed(api):
    assert api.util_get_model_names() == [MODEL]
    assert "DPM++ 2M" in api.util_get_sampler_names()
    assert "DPM++ 2M Karras" not in api.util_get_sampler_names()
    assert api.util_get_scheduler_names() == ["automatic", "karras", "uniform"]
    assert set(api.get_memory()) == {"ram", "cuda"}
    assert api.get_cmd_flags()["api"] is True


def test_the_served_model_may_be_chosen_and_no_other(api, drawing_gateway):
    api.util_set_model("tiny")
    assert api.util_get_current_model() == MODEL
    answer = httpx2.post(f"{drawing_gateway.url}/sdapi/v1/options", json={"sd_model_checkpoint": "other"})
    assert (answer.status_code, answer.json()["error"]) == (404, "model_not_found")
    answer = httpx2.post(f"{drawing_gateway.url}/sdapi/v1/options", json={"CLIP_stop_at_last_layers": 2})
    assert answer.json()["detail"] == "CLIP_stop_at_last_layers: is 2, and can't be changed from 1"


def test_a_picture_tells_how_it_was_made(api):
    drawn = api.txt2img(prompt="a described cat", seed=5, **SMALL).image
    assert api.png_info(drawn).info.startswith("a described cat\nSteps: 2, Sampler: Euler a")


@pytest.fixture
def stand_in_api(gateway) -> Iterator[WebUIApi]:
    with connected(gateway) as api:
        yield api


def test_progress_and_interrupt_are_of_the_callers_latest(stand_in_api, gateway):
    api = stand_in_api
    api.util_wait_for_ready(check_interval=0.01)
    results: list[dict] = []

    def draw() -> None:
        with gateway.client() as client:
            results.append(client.post("/sdapi/v1/txt2img", json={"prompt": "step by step", "steps": 4}).json())

    thread = threading.Thread(target=draw)
    thread.start()
    gateway.do(gateway.worker.steps.release)
    seen = wait_for(lambda: (now := api.get_progress())["current_image"] and now)
    assert base64.b64decode(seen["current_image"]) == b"preview 2"
    assert (seen["progress"], seen["state"]["sampling_step"], seen["state"]["sampling_steps"]) == (0.5, 2, 4)
    assert seen["state"]["job_count"] == 1
    assert api.interrupt() == {}
    for _ in range(3):
        gateway.do(gateway.worker.steps.release)
    thread.join(timeout=20)
    assert results[0]["images"] == []
    assert json.loads(results[0]["info"])["interrupted"] is True
    assert (api.get_progress()["progress"], api.skip()) == (0.0, {})


def test_a_customers_progress_is_nobody_elses_business(tmp_path):
    (tmp_path / "alice").write_text("alices-secret-key")
    (tmp_path / "bob").write_text("bobs-secret-key")
    with (
        RunningGateway(keys=tmp_path) as gateway,
        connected(gateway, username="alice", password="alices-secret-key") as alice,
        connected(gateway, username="bob", password="bobs-secret-key") as bob,
    ):
        headers = {"Authorization": "Bearer alices-secret-key"}
        thread = threading.Thread(
            target=lambda: httpx2.post(
                f"{gateway.url}/sdapi/v1/txt2img", json={"prompt": "slow"}, headers=headers, timeout=20
            )
        )
        thread.start()
        wait_for(lambda: alice.get_progress()["state"]["job_count"] == 1)
        assert bob.get_progress()["state"]["job_count"] == 0
        bob.interrupt()
        assert alice.get_progress()["state"]["interrupted"] is False
        alice.interrupt()
        thread.join(timeout=20)
        stranger = httpx2.get(f"{gateway.url}/sdapi/v1/sd-models")
        assert (stranger.status_code, stranger.json()["error"]) == (401, "invalid_api_key")
