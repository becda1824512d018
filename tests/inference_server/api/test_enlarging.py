"""A second pass and upscaling by OpenAI's and Replicate's fields: the image, what is listed and what is refused."""

import base64
import io
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from easel_contract.server_config import SyntheticConfig
from easel_server.engine.synthetic_engine import SyntheticEngine
from easel_server.generation.encoding import read_description
from PIL import Image

from tests.inference_server.api.serving import MODEL, RunningGateway
from tests.support.client_images import encoded

SMALL = {"prompt": "a cat", "size": "64x64", "num_inference_steps": 4, "seed": 5}
SENT = encoded(Image.effect_noise((50, 37), 60).convert("RGB"))
DATA_URL = f"data:image/png;base64,{base64.b64encode(SENT).decode()}"
APIS = ("openai", "replicate")


@pytest.fixture(scope="module")
def gateway() -> Iterator[RunningGateway]:
    with RunningGateway(engine=SyntheticEngine(MODEL, SyntheticConfig(milliseconds_per_image=1))) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def client(gateway: RunningGateway) -> Iterator[httpx2.Client]:
    with gateway.client() as client:
        yield client


def generate(client: httpx2.Client, api: str, **given: Any) -> httpx2.Response:
    if api == "openai":
        return client.post("/v1/images/generations", json={**SMALL, **given})
    return client.post("/v1/predictions", json={"input": {**SMALL, **given}}, headers={"Prefer": "wait=60"})


def enlarge(client: httpx2.Client, api: str, image_url: str = DATA_URL, **given: Any) -> httpx2.Response:
    if api == "openai":
        return client.post("/v1/images/upscales", json={"images": [{"image_url": image_url}], **given})
    body = {"input": {"image": image_url, **given}}
    return client.post("/v1/predictions", json=body, headers={"Prefer": "wait=60"})


def image_of(answer: httpx2.Response, client: httpx2.Client, api: str) -> Image.Image:
    assert answer.status_code in (200, 201), answer.text
    assert "Warning" not in answer.headers, answer.headers["Warning"]
    content = answer.json()
    data = base64.b64decode(content["data"][0]["b64_json"]) if api == "openai" else None
    return Image.open(io.BytesIO(client.get(content["output"][0]).content if data is None else data))


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    ("hires", "size", "said"),
    [
        ({"scale": 2}, (128, 128), ["Hires upscaler: Latent", "Denoising strength: 0.7"]),
        ({}, (128, 128), ["Hires resize: 128x128"]),
        ({"width": 192, "height": 128, "upscaler": "Lanczos"}, (192, 128), ["Hires upscaler: Lanczos"]),
        ({"height": 96, "strength": 0.5, "steps": 3}, (96, 96), ["Denoising strength: 0.5", "Hires steps: 3"]),
    ],
)
def test_a_second_pass_gives_an_image_of_the_larger_size(
    client: httpx2.Client, api: str, hires: dict[str, Any], size: tuple[int, int], said: list[str]
) -> None:
    image = image_of(generate(client, api, hires=hires), client, api)
    assert image.size == size
    written = read_description(image)
    assert all(text in written for text in said), written


@pytest.mark.parametrize("api", APIS)
def test_the_text_of_an_image_of_two_passes_gives_it_again(client: httpx2.Client, api: str) -> None:
    image = image_of(generate(client, api, hires={"scale": 1.5, "steps": 3}), client, api)
    own = {"prompt": None, "size": None, "num_inference_steps": None, "seed": None}
    again = generate(client, api, recipe=read_description(image), **own)
    assert image_of(again, client, api).tobytes() == image.tobytes()


def test_a_prediction_says_its_second_pass_so_that_it_can_be_posted(client: httpx2.Client) -> None:
    first = generate(client, "replicate", hires={"scale": 2, "strength": 0.5}).json()["input"]
    assert first["hires"] == {"width": 128, "height": 128, "upscaler": "Latent", "strength": 0.5}
    answer = client.post("/v1/predictions", json={"input": first}, headers={"Prefer": "wait=60"})
    assert answer.json()["input"] == first
    assert answer.headers["X-Cache"] == "hit"


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    ("hires", "said"),
    [
        ({"scale": 0}, "hires.scale"),
        ({"scale": 9}, "hires.scale"),
        ({"by": 2}, "hires.by"),
        ({"upscaler": "Mine"}, "which is no upscaler of this service; allowed are Latent, "),
        ({"strength": 0}, "denoising strength of 0"),
        ({"steps": 1000}, "has 1000 steps"),
        ({"width": 100, "height": 100}, "allowed are multiples of 8"),
    ],
)
def test_what_a_second_pass_cant_do_is_refused_by_name(
    client: httpx2.Client, api: str, hires: dict[str, Any], said: str
) -> None:
    answer = generate(client, api, hires=hires)
    assert answer.status_code in (400, 422)
    assert said in answer.text
    assert ("input.hires" if api == "replicate" else "hires") in answer.text


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    ("given", "size"),
    [
        ({"scale": 3}, (150, 111)),
        ({"scale": 1.5, "upscaler": "Lanczos"}, (75, 55)),
        ({"upscaler": "Nearest", "output_format": "webp"}, (100, 74)),
    ],
)
def test_an_image_of_any_size_is_enlarged_without_a_prompt(
    client: httpx2.Client, api: str, given: dict[str, Any], size: tuple[int, int]
) -> None:
    image = image_of(enlarge(client, api, **given), client, api)
    assert image.size == size
    assert image.format == given.get("output_format", "png").upper()


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("size", [(20000, 8), (8, 20000)])
def test_an_image_longer_than_webp_knows_is_still_an_image(
    client: httpx2.Client, api: str, size: tuple[int, int]
) -> None:
    sent = io.BytesIO()
    Image.new("RGB", size, (9, 99, 200)).save(sent, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(sent.getvalue()).decode()}"
    image = image_of(enlarge(client, api, scale=0.25, upscaler="Nearest", image_url=url), client, api)
    assert image.size == (size[0] // 4, size[1] // 4)


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(("first", "hires"), [("64x0", {"width": 64}), ("0x64", {"height": 64}), ("0x0", {"scale": 2})])
def test_a_first_pass_without_a_side_is_refused_whatever_the_second_one_asks_for(
    client: httpx2.Client, api: str, first: str, hires: dict[str, int]
) -> None:
    answer = generate(client, api, size=first, hires=hires)
    assert answer.status_code in (400, 422)
    assert "is 0 pixels" in answer.text


def test_both_apis_enlarge_alike(client: httpx2.Client) -> None:
    assert enlarge(client, "openai", scale=4).headers["X-Cache"] == "miss"
    for given in ({"scale": 4}, {"upscale_factor": 4}, {"scale": 4, "upscaler": "Lanczos", "face_enhance": False}):
        answer = enlarge(client, "replicate", **given)
        assert answer.headers["X-Cache"] == "hit", given
    told = answer.json()["input"]
    assert (told["scale"], told["upscaler"], "prompt" in told) == (4, "Lanczos", False)
    assert enlarge(client, "replicate", **told).headers["X-Cache"] == "hit"


def test_openais_package_sends_a_file(gateway: RunningGateway) -> None:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as api:
        answer = api.post(
            "/images/upscales",
            cast_to=object,
            body={"scale": "2", "model": MODEL},
            files={"image": ("image.png", SENT, "image/png")},
            options={"headers": {"Content-Type": "multipart/form-data"}},
        )
    assert isinstance(answer, dict)
    assert answer["size"] == "100x74"


def test_an_enlarged_image_can_be_asked_for_as_an_address(client: httpx2.Client) -> None:
    [shown] = enlarge(client, "openai", scale=2, response_format="url").json()["data"]
    with Image.open(io.BytesIO(client.get(shown["url"]).content)) as image:
        assert image.size == (100, 74)


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"scale": 9}, "scale"),
        ({"scale": "big"}, "scale"),
        ({"upscaler": "Mine"}, "allowed are None, Lanczos, Nearest"),
        ({"scale": 2, "prompt": "a dog"}, "prompt"),
        ({"scale": 2, "mask": DATA_URL}, "mask"),
        ({"scale": 2, "loras": {"ink": 1}}, "loras"),
        ({"scale": 2, "hires": {"scale": 2}}, "hires"),
    ],
)
def test_what_enlarging_cant_do_is_refused_by_name(
    client: httpx2.Client, api: str, given: dict[str, Any], said: str
) -> None:
    answer = enlarge(client, api, **given)
    assert answer.status_code in (400, 422)
    assert said in answer.text


def test_without_an_image_there_is_nothing_to_enlarge(client: httpx2.Client) -> None:
    prediction = client.post("/v1/predictions", json={"input": {"scale": 2}})
    assert prediction.status_code == 422
    assert "must come with the request" in prediction.text
    form = client.post("/v1/images/upscales", data={"scale": "2"}, files={"other": SENT})
    assert form.status_code == 400
    assert "image" in form.json()["error"]["message"]
