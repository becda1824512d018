"""Edits as the `openai` package sends them, and as JSON; what a worker gets of them."""

import base64
import json
from typing import Any

import httpx2
import openai
import pytest
from easel_contract.gateway_config import GatewayConfig, LimitsConfig
from easel_server.generation.tasks import Task
from PIL import Image

from tests.inference_server.api.serving import MODEL, RunningGateway
from tests.support.client_images import decoded, decompression_bomb, encoded, halves, with_transparent_half


@pytest.fixture
def images(gateway):
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0, timeout=20) as client:
        yield client.images


def data_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def test_an_image_is_generated_anew(images, gateway):
    answer = images.edit(
        model=MODEL,
        image=("cat.png", encoded(halves())),
        prompt="a cat",
        n=2,
        size="128x64",
        response_format="b64_json",
        output_format="webp",
        quality="high",
        background="auto",
        input_fidelity="high",
        extra_body={"seed": 9, "strength": 0.5, "num_inference_steps": 8, "guidance_scale": 3.5, "sampler": "DDIM"},
    )
    assert [base64.b64decode(image.b64_json) for image in answer.data] == [b"a cat 9", b"a cat 10"]
    assert answer.size == "128x64"
    claim = gateway.worker.claims[-1]
    parameters = claim.job.parameters
    assert (parameters.task, parameters.strength, parameters.sampler) == (Task.IMAGE_TO_IMAGE, 0.5, "DDIM")
    image = decoded(claim.inputs[parameters.image_digest])
    assert (image.mode, image.size) == ("RGB", (128, 64))


def test_a_transparent_mask_says_where_to_redraw(images, gateway):
    mask = encoded(with_transparent_half())
    images.edit(image=encoded(halves(), "JPEG"), mask=mask, prompt="a masked cat")
    claim = gateway.worker.claims[-1]
    parameters = claim.job.parameters
    assert (parameters.task, parameters.strength) == (Task.INPAINT, 1.0)
    assert (parameters.width_pixels, parameters.height_pixels) == (64, 64)
    redrawn = decoded(claim.inputs[parameters.mask_digest])
    assert (redrawn.getpixel((4, 4)), redrawn.getpixel((60, 4))) == (0, 255)


def test_an_image_without_a_mask_is_generated_anew_where_it_is_transparent(images, gateway):
    images.edit(image=[encoded(with_transparent_half())], prompt="a half cat")
    claim = gateway.worker.claims[-1]
    redrawn = decoded(claim.inputs[claim.job.parameters.mask_digest])
    assert (redrawn.getpixel((4, 4)), redrawn.getpixel((60, 4))) == (0, 255)


def test_an_image_that_is_opaque_all_over_has_no_mask(images, gateway):
    images.edit(image=encoded(halves().convert("RGBA")), prompt="an opaque cat")
    assert gateway.worker.claims[-1].job.parameters.task is Task.IMAGE_TO_IMAGE


def test_an_edit_as_json(client, gateway):
    body = {
        "prompt": "a cat in JSON",
        "images": [{"image_url": data_url(encoded(halves()))}],
        "mask": {"image_url": data_url(encoded(with_transparent_half()))},
        "seed": 5,
    }
    answer = client.post("/v1/images/edits", json=body)
    assert base64.b64decode(answer.json()["data"][0]["b64_json"]) == b"a cat in JSON 5"
    assert gateway.worker.claims[-1].job.parameters.task is Task.INPAINT


def test_the_same_edit_is_answered_from_the_cache_and_another_image_is_not(images):
    def edit(image: Image.Image) -> str:
        answer = images.with_raw_response.edit(
            image=encoded(image), prompt="a cached cat", size="64x64", extra_body={"seed": 5}
        )
        return str(answer.headers["X-Cache"])

    assert [edit(halves()), edit(halves()), edit(halves(left="green"))] == ["miss", "hit", "miss"]


REFUSALS: dict[str, tuple[dict[str, Any], str, str]] = {
    "no image": ({"image": b"cat"}, "image", "is no image that can be read (3 bytes)"),
    "a bomb": ({"image": decompression_bomb()}, "image", "has 30000x30000 = 900000000 pixels, at most 16777216"),
    "two images": ({"image": [encoded(halves())] * 2}, "image", "is given 2 times as a file, and must be given once"),
    "a mask without alpha": ({"mask": encoded(halves())}, "mask", "has no transparency"),
    "a mask of another size": (
        {"mask": encoded(with_transparent_half((32, 64)))},
        "mask",
        "is 32x64, allowed is the image's 64x64",
    ),
    "an odd size": ({"size": "65x64"}, "size", "is 65 pixels, allowed is a multiple of 8 from 64 to 2048"),
    "too strong": ({"extra_body": {"strength": 1.5}}, "strength", "is 1.5, allowed is more than 0 to 1"),
    "less than a step": (
        {"extra_body": {"strength": 0.1, "num_inference_steps": 4}},
        "strength",
        "is 0.1, of 4 steps less than one; allowed are 0.25 to 1",
    ),
    "a word for a number": ({"extra_body": {"seed": "many"}}, "seed", "got 'many'"),
    "an unknown field": ({"extra_body": {"colour": "red"}}, "colour", "is not a known field"),
    "an unknown sampler": (
        {"extra_body": {"sampler": "Fast"}},
        "sampler",
        "is 'Fast', allowed are Euler, Euler K",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_names_the_field_the_value_and_what_is_allowed(images, case):
    given, field, message = REFUSALS[case]
    with pytest.raises(openai.BadRequestError) as caught:
        images.edit(**{"image": encoded(halves()), "prompt": "a cat", **given})
    assert (caught.value.code, caught.value.param) == ("invalid_value", field)
    assert message in caught.value.message


def test_a_model_that_only_generates_from_text_says_so(images, gateway):
    known = gateway.facts
    gateway.facts = known.__class__(defaults=known.defaults, tasks=(Task.TEXT_TO_IMAGE,))
    try:
        with pytest.raises(openai.BadRequestError, match="asks for ImageToImage, which this model can't do; it can Te"):
            images.edit(image=encoded(halves()), prompt="a cat")
    finally:
        gateway.facts = known


FORMS = {
    "no boundary": ("multipart/form-data", b"--x\r\n\r\n--x--"),
    "no form": ("multipart/form-data; boundary=x", b"prompt=cat"),
    "a part without a name": (
        "multipart/form-data; boundary=x",
        b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--\r\n",
    ),
    "too many fields": (
        "multipart/form-data; boundary=x",
        b"".join(b'--x\r\nContent-Disposition: form-data; name="f%d"\r\n\r\na\r\n' % i for i in range(60))
        + b"--x--\r\n",
    ),
    "an unknown charset": (
        "multipart/form-data; boundary=x; charset=none",
        b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na\r\n--x--\r\n',
    ),
    "cut off": ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nca'),
    "nothing": ("multipart/form-data; boundary=x", b""),
}


def test_a_body_of_another_type_is_refused_with_the_two_that_are_allowed(client):
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = client.post("/v1/images/edits", content=b"prompt=cat", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")
    assert "application/json` or `Content-Type: multipart/form-data`" in answer.json()["error"]["message"]


@pytest.mark.parametrize("case", FORMS)
def test_a_form_that_is_none_is_the_clients_fault(client, case):
    kind, body = FORMS[case]
    answer = client.post("/v1/images/edits", content=body, headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value"), answer.text


def test_a_field_that_is_given_twice_is_refused(client):
    files = [("image", ("a.png", encoded(halves()))), ("prompt", (None, b"cat")), ("prompt", (None, b"dog"))]
    answer = client.post("/v1/images/edits", files=files)
    assert answer.json()["error"]["message"] == "prompt: is given twice"


def test_a_form_beyond_the_bound_is_refused():
    config = GatewayConfig(limits=LimitsConfig(max_body_bytes=4096))
    with RunningGateway(config) as gateway, gateway.client() as client:
        answer = client.post("/v1/images/edits", files={"image": bytes(8192)}, data={"prompt": "a cat"})
    assert answer.status_code == 413
    assert "longer than 4096 bytes" in answer.json()["error"]["message"]


def test_predictions_begin_with_an_image_too(client, gateway):
    given = {
        "prompt": "a painted cat",
        "image": data_url(encoded(halves((128, 64)))),
        "mask": data_url(encoded(Image.new("L", (128, 64), 255))),
        "prompt_strength": 0.5,
        "scheduler": "K_EULER_ANCESTRAL",
    }
    answer = client.post("/v1/predictions", json={"input": given}, headers={"Prefer": "wait"})
    assert answer.json()["status"] == "succeeded"
    assert answer.json()["input"]["scheduler"] == "Euler a"
    assert "image" not in answer.json()["input"]
    claim = gateway.worker.claims[-1]
    parameters = claim.job.parameters
    assert (parameters.task, parameters.strength) == (Task.INPAINT, 0.5)
    # Twice the model's pixels: generated smaller, in the same proportions.
    assert (parameters.width_pixels, parameters.height_pixels) == (88, 64)
    assert decoded(claim.inputs[parameters.image_digest]).size == (88, 64)


@pytest.mark.parametrize(
    ("given", "field", "description"),
    [
        ({"image": "https://example.com/cat.png"}, "input.image", "is a web address, and this service fetches none"),
        ({"image": "cat.png"}, "input.image", "must be a data: URL"),
        ({"mask": data_url(b"")}, "input.mask", "means nothing without input.image"),
        ({"prompt_strength": 0.5}, "input.prompt_strength", "is 0.5, which means nothing without an image"),
        ({"scheduler": "K_FAST"}, "input.scheduler", "is 'K_FAST', allowed are "),
    ],
)
def test_a_prediction_with_an_image_that_is_none_is_refused(client, given, field, description):
    answer = client.post("/v1/predictions", json={"input": {"prompt": "a cat", **given}})
    assert answer.status_code == 422, json.dumps(answer.json())
    assert answer.json()["invalid_fields"][0]["field"] == field
    assert answer.json()["invalid_fields"][0]["description"].startswith(description)


def test_an_edit_that_its_client_leaves_is_cancelled(gateway):
    before = len(gateway.worker.seen)
    with gateway.client() as client, pytest.raises(httpx2.ReadTimeout):
        client.post("/v1/images/edits", files={"image": encoded(halves())}, data={"prompt": "slow"}, timeout=0.5)
    [job_id] = gateway.worker.seen[before:]
    assert gateway.call(gateway.stores.jobs.wait(job_id, 10)).state == "Canceled"
