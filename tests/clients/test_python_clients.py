"""The official Python packages of OpenAI and Replicate drive add-ons of a real model, as their documentation sends what
they don't know: ``extra_body``, and files in a prediction's input."""

import base64
import io
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from openai.types import ImagesResponse
from PIL import Image
from replicate.client import Client
from replicate.exceptions import ReplicateError

from tests.clients.conftest import CONTROL_NET, LORA, UPSCALER
from tests.inference_server.api.serving import MODEL, RunningGateway
from tests.support.client_images import encoded, halves

pytestmark = pytest.mark.torch

EXTRA: dict[str, Any] = {"seed": 5, "num_inference_steps": 3}
INPUT: dict[str, Any] = {"prompt": "a cat", "width": 64, "height": 64, **EXTRA}
PNG = encoded(halves())
DATA_URL = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def read_image(answer: ImagesResponse) -> Image.Image:
    [image] = answer.data or []
    return opened(base64.b64decode(image.b64_json or ""))


@pytest.fixture(scope="module")
def client(service: RunningGateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
def replicate(service: RunningGateway) -> Iterator[Client]:
    client = Client(api_token="any", base_url=service.url)
    yield client
    client._client.close()


def generate(client: openai.OpenAI, **extra: Any) -> Image.Image:
    body = {**EXTRA, **extra}
    return read_image(client.images.generate(model=MODEL, prompt="a cat", size="64x64", extra_body=body))


def edit(client: openai.OpenAI, **extra: Any) -> Image.Image:
    answer = client.images.edit(
        model=MODEL, prompt="a cat", image=("cat.png", PNG, "image/png"), extra_body={**EXTRA, **extra}
    )
    return read_image(answer)


def test_openais_package_asks_for_a_lora_a_controlnet_and_a_second_pass(client: openai.OpenAI) -> None:
    control = {"model": CONTROL_NET, "image": DATA_URL, "preprocessor": "canny", "weight": 0.7}
    plain, inked = generate(client), generate(client, loras={LORA: 0.8})
    held, larger = generate(client, controlnet=[control]), generate(client, hires={"scale": 2, "upscaler": UPSCALER})
    assert len({each.tobytes() for each in (plain, inked, held)}) == 3
    assert f"<lora:{LORA}:0.8>" in inked.info["parameters"]
    assert f"Model: {CONTROL_NET}, Weight: 0.7" in held.info["parameters"]
    assert larger.size == (128, 128)
    assert f"Hires upscaler: {UPSCALER}" in larger.info["parameters"]


def test_an_edit_by_openais_package_takes_objects_though_it_is_a_form(client: openai.OpenAI) -> None:
    controls = [{"model": CONTROL_NET, "weight": 0.5}]
    plain, edited = edit(client), edit(client, loras={LORA: 0.8}, controlnet=controls)
    assert edited.tobytes() != plain.tobytes()
    assert f"<lora:{LORA}:0.8>" in edited.info["parameters"]
    assert f"Model: {CONTROL_NET}, Weight: 0.5" in edited.info["parameters"]
    listed = edit(client, loras=[{"name": LORA, "weight": 0.8}], controlnet=controls)
    assert listed.tobytes() == edited.tobytes()


def test_two_objects_of_a_form_keep_their_own_fields_or_the_form_is_refused(client: openai.OpenAI) -> None:
    """The package puts equal names together: which object a lone field belongs to can't be told any more."""
    with pytest.raises(openai.BadRequestError) as caught:
        edit(client, loras=[{"name": LORA, "weight": 0.5}, {"name": "clay", "weight": 0.7}])
    assert "'clay'" in caught.value.message
    with pytest.raises(openai.BadRequestError, match="objects with different fields"):
        edit(client, loras=[{"name": LORA}, {"name": "clay", "weight": 0.7}])


def test_replicates_package_uploads_a_control_image(replicate: Client) -> None:
    def run(**fields: Any) -> Image.Image:
        [output] = replicate.run(MODEL, input={**INPUT, **fields})
        return opened(httpx2.get(str(output)).content)

    def file() -> io.BytesIO:
        return io.BytesIO(PNG)

    plain, inked = run(), run(lora_weights=LORA, lora_scale=0.8)
    held = run(controlnet=CONTROL_NET, control_image=file())
    assert len({each.tobytes() for each in (plain, inked, held)}) == 3
    assert f"Model: {CONTROL_NET}, Weight: 1.0" in held.info["parameters"]
    assert run(controlnet=[{"model": CONTROL_NET, "image": file()}]).tobytes() == held.tobytes()
    assert run(hires={"scale": 2}).size == (128, 128)


def test_replicates_package_enlarges_a_file(replicate: Client) -> None:
    outputs = [
        replicate.run(MODEL, input={"image": io.BytesIO(PNG), "scale": 2, "upscaler": name})
        for name in (UPSCALER, "Lanczos")
    ]
    network, lanczos = (opened(httpx2.get(str(output)).content) for [output] in outputs)
    assert network.size == lanczos.size == (128, 128)
    assert network.tobytes() != lanczos.tobytes()


def test_an_uploaded_control_image_that_is_gone_is_refused_by_its_field(replicate: Client) -> None:
    file = replicate.files.create(io.BytesIO(PNG))
    replicate.files.delete(file.id)
    given = {**INPUT, "controlnet": CONTROL_NET, "control_image": file.urls["get"]}
    with pytest.raises(ReplicateError, match=r"input\.control_image: .*has expired"):
        replicate.predictions.create(version=MODEL, input=given)
