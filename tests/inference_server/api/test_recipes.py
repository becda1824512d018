"""What an image says of itself gives it again: a real pipeline's, by each API, in each format."""

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx2
import numpy
import pytest
from easel_server.generation.encoding import read_description, read_recipe_text
from easel_server.generation.parameters import ImageFormat
from PIL import Image

from tests.inference_server.api.serving import IDENTITY, RunningGateway
from tests.support.client_images import encoded, halves
from tests.support.tiny_engine import tiny_engine

pytestmark = pytest.mark.torch

APIS = ("openai", "replicate", "automatic1111")
PROMPT = 'a "cat": <b>\nNegative prompt: d\nSteps: 9, Sampler: DDIM, Seed: 1'
CLOSE = 2  # of 255: how far Close may be from a batch of another size


@pytest.fixture(scope="module")
def client() -> Iterator[httpx2.Client]:
    engine = tiny_engine()
    held = engine.description
    known = {"weights": held.resolved_revision, "dtype": held.dtype, "versions": held.versions}
    # No answer from the cache: each image is generated.
    with RunningGateway(engine=engine) as gateway, gateway.client(**{"Cache-Control": "no-store"}) as client:
        gateway.facts = replace(gateway.facts, identity=IDENTITY.model_copy(update=known))
        yield client


def post(client: httpx2.Client, api: str, recipe: Any, **given: Any) -> bytes:
    return answer_of(post_raw(client, api, recipe, **given), client, api)


def post_raw(client: httpx2.Client, api: str, recipe: Any, **given: Any) -> httpx2.Response:
    match api:
        case "openai":
            return client.post("/v1/images/generations", json={"recipe": recipe, **given})
        case "replicate":
            body = {"input": {"recipe": recipe, **given}}
            return client.post("/v1/predictions", json=body, headers={"Prefer": "wait=60"})
    return client.post("/sdapi/v1/txt2img", json={"infotext": recipe, **given})


def answer_of(answer: httpx2.Response, client: httpx2.Client, api: str) -> bytes:
    assert answer.status_code in (200, 201), answer.text
    assert "Warning" not in answer.headers, answer.headers["Warning"]
    content = answer.json()
    match api:
        case "openai":
            return base64.b64decode(content["data"][0]["b64_json"])
        case "replicate":
            return client.get(content["output"][0]).content
    return base64.b64decode(content["images"][0])


def generate(client: httpx2.Client, **given: Any) -> list[bytes]:
    answer = client.post("/v1/images/generations", json={"size": "64x72", "num_inference_steps": 4, **given})
    assert answer.status_code == 200, answer.text
    return [base64.b64decode(image["b64_json"]) for image in answer.json()["data"]]


def read(image: bytes) -> tuple[str, str]:
    with Image.open(io.BytesIO(image)) as opened:
        return read_description(opened), read_recipe_text(opened)


def pixels(image: bytes) -> numpy.ndarray:
    with Image.open(io.BytesIO(image)) as opened:
        return numpy.asarray(opened.convert("RGB")).astype(int)


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("image_format", ImageFormat)
def test_the_recipe_within_an_image_gives_the_same_bytes(client: httpx2.Client, api: str, image_format: str) -> None:
    given = {"prompt": PROMPT, "negative_prompt": "a\ndog", "sampler": "DPM++ 2M", "guidance_scale": 6.25}
    (image,) = generate(client, **given, output_format=image_format, seed=5)
    _, recipe = read(image)
    assert post(client, api, recipe) == image


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("image_format", ImageFormat)
def test_an_image_of_two_passes_comes_again(client: httpx2.Client, api: str, image_format: str) -> None:
    hires = {"width": 96, "height": 104, "upscaler": "Lanczos", "strength": 0.5, "steps": 6}
    (image,) = generate(client, prompt="a cat", seed=5, hires=hires, output_format=image_format)
    _, recipe = read(image)
    assert json.loads(recipe)["parameters"]["hires"]["steps"] == hires["steps"]
    assert pixels(image).shape == (104, 96, 3)
    assert post(client, api, recipe) == image


@pytest.mark.parametrize("image_format", ImageFormat)
def test_an_enlarged_image_comes_again_with_the_image_that_it_was(client: httpx2.Client, image_format: str) -> None:
    url = f"data:image/png;base64,{base64.b64encode(encoded(halves((50, 37)))).decode()}"
    image = post(client, "replicate", None, image=url, scale=3, upscaler="Nearest", output_format=image_format)
    _, recipe = read(image)
    assert pixels(image).shape == (111, 150, 3)
    assert post(client, "replicate", recipe, image=url) == image
    body = {"images": [{"image_url": url}], "recipe": recipe}
    assert answer_of(client.post("/v1/images/upscales", json=body), client, "openai") == image
    assert post_raw(client, "replicate", recipe).status_code == 422


@pytest.mark.parametrize("api", ["openai", "replicate"])
def test_a_recipe_may_be_json_within_json(client: httpx2.Client, api: str) -> None:
    (image,) = generate(client, prompt="a cat")
    assert post(client, api, json.loads(read(image)[1])) == image


@pytest.mark.parametrize("api", APIS)
def test_the_text_within_an_image_gives_its_pixels(client: httpx2.Client, api: str) -> None:
    (image,) = generate(client, prompt="a cat, sitting", negative_prompt="a dog", sampler="DPM++ 2M Karras")
    text, _ = read(image)
    assert post(client, api, text) == image


def test_an_image_without_a_sampler_comes_again_from_the_models_own(client: httpx2.Client) -> None:
    (image,) = generate(client, prompt="a cat", seed=3)
    text, recipe = read(image)
    assert "Sampler: PNDMScheduler" in text
    assert json.loads(recipe)["scheduler"]["class"] == "PNDMScheduler"
    assert post(client, "openai", text) == post(client, "openai", recipe) == image


@pytest.mark.parametrize("api", APIS)
def test_one_of_several_images_comes_again_alone(client: httpx2.Client, api: str) -> None:
    images = generate(client, prompt="a cat", seed=5, n=3)
    again = post(client, api, read(images[2])[1])
    assert abs(pixels(again) - pixels(images[2])).max() <= CLOSE
    assert abs(pixels(again) - pixels(images[0])).max() > CLOSE


@pytest.mark.parametrize("api", APIS)
def test_one_of_several_exact_images_comes_again_to_the_byte(client: httpx2.Client, api: str) -> None:
    images = generate(client, prompt="a cat", seed=5, n=3, reproducibility="Exact")
    for image in images[1:]:
        text, recipe = read(image)
        assert "Reproducibility: Exact" in text
        assert pixels(post(client, api, recipe)).tolist() == pixels(image).tolist()


@pytest.mark.parametrize("image_format", ["png", "jpg", "webp"])
def test_what_png_info_gives_can_be_posted_as_it_is(client: httpx2.Client, image_format: str) -> None:
    settings = {"samples_format": image_format, "jpeg_quality": 80}
    given = {"prompt": PROMPT, "negative_prompt": "a dog", "steps": 4, "width": 72, "height": 64, "cfg_scale": 6.25}
    body = {**given, "sampler_name": "DPM++ 2M", "scheduler": "uniform", "seed": 9, "override_settings": settings}
    image = client.post("/sdapi/v1/txt2img", json=body).json()["images"][0]
    info = client.post("/sdapi/v1/png-info", json={"image": image}).json()
    assert info["parameters"]["Sampler"] == "DPM++ 2M"
    assert (info["parameters"]["Size-1"], info["parameters"]["Size-2"]) == ("72", "64")
    assert json.loads(info["items"]["easel"])["easel"] == 1
    again = client.post("/sdapi/v1/txt2img", json=info["parameters"])
    assert "Warning" not in again.headers, again.headers["Warning"]
    assert again.json()["images"][0] == image


def test_an_image_over_another_comes_again_with_that_one(client: httpx2.Client) -> None:
    start = base64.b64encode(encoded(halves())).decode()
    given = {"prompt": "a cat", "steps": 4, "seed": 5, "width": 64, "height": 72, "denoising_strength": 0.5}
    image = client.post("/sdapi/v1/img2img", json={"init_images": [start], **given}).json()["images"][0]
    fields = client.post("/sdapi/v1/png-info", json={"image": image}).json()["parameters"]
    _, recipe = read(base64.b64decode(image))
    for body in (fields, {"infotext": recipe}):
        again = client.post("/sdapi/v1/img2img", json={"init_images": [start], **body})
        assert "Warning" not in again.headers, again.headers["Warning"]
        assert again.json()["images"][0] == image


def test_an_edit_comes_again_with_its_image_as_json_and_as_a_form(client: httpx2.Client) -> None:
    url = f"data:image/png;base64,{base64.b64encode(encoded(halves())).decode()}"
    given = {"prompt": PROMPT, "num_inference_steps": 4, "seed": 5, "strength": 0.5}
    body = {"images": [{"image_url": url}], **given}
    image = answer_of(client.post("/v1/images/edits", json=body), client, "openai")
    _, recipe = read(image)
    as_json = client.post("/v1/images/edits", json={"images": [{"image_url": url}], "recipe": json.loads(recipe)})
    assert answer_of(as_json, client, "openai") == image
    as_form = client.post("/v1/images/edits", data={"recipe": recipe}, files={"image": encoded(halves())})
    assert answer_of(as_form, client, "openai") == image


def test_a_prediction_over_an_image_comes_again_with_it(client: httpx2.Client) -> None:
    url = f"data:image/png;base64,{base64.b64encode(encoded(halves())).decode()}"
    given = {"prompt": "a cat", "num_inference_steps": 4, "seed": 5, "prompt_strength": 0.5, "width": 72, "height": 64}
    image = post(client, "replicate", None, image=url, **given)
    _, recipe = read(image)
    assert post(client, "replicate", recipe, image=url) == image


@pytest.mark.parametrize("api", APIS)
def test_a_field_beside_a_recipe_goes_first(client: httpx2.Client, api: str) -> None:
    (image,) = generate(client, prompt="a cat", seed=5)
    other = post(client, api, read(image)[1], prompt="a dog", seed=6)
    parameters = json.loads(read(other)[1])["parameters"]
    assert (parameters["prompt"], parameters["seed"], parameters["steps"]) == ("a dog", 6, 4)


def test_a_recipe_of_other_weights_is_generated_and_said_to_give_another_image(client: httpx2.Client) -> None:
    (image,) = generate(client, prompt="a cat", seed=5)
    recipe = json.loads(read(image)[1])
    recipe["model"]["weights"] = "sha256:others"
    recipe["parameters"]["etaOfALaterVersion"] = 1
    answer = post_raw(client, "openai", recipe)
    assert answer.status_code == 200
    unknown, other = answer.json()["warnings"]
    assert "'etaOfALaterVersion' is without effect" in unknown
    assert "'sha256:others'" in other


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    ("recipe", "fault"),
    [
        ('{"easel": 1, "parameters": {"prompt": "a cat", "steps": 100000}}', "100000"),
        ('{"easel": 1, "parameters": {"prompt": "a cat", "steps": "many"}}', "has steps 'many'"),
        ("{]", "can't be read as JSON"),
        ('{"easel": 1, "parameters": {"prompt": "a cat", "imageDigest": "aa"}}', "which holds no images"),
        ('{"easel": 1, "parameters": {}, "cut": ["prompt"]}', "no room"),
    ],
)
def test_what_is_no_recipe_is_refused_by_its_name(client: httpx2.Client, api: str, recipe: str, fault: str) -> None:
    answer = post_raw(client, api, recipe)
    assert answer.status_code in (400, 422)
    assert fault in answer.text


@pytest.mark.parametrize("api", ["openai", "replicate"])
def test_without_a_recipe_a_prompt_must_be_given(client: httpx2.Client, api: str) -> None:
    answer = post_raw(client, api, None)
    assert answer.status_code in (400, 422)
    assert "prompt: is missing and must be given" in answer.text
