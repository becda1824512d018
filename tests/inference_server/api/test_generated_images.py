"""From clients' images to a real pipeline's, through gateway, stores and worker."""

import base64
from collections.abc import Iterator

import openai
import pytest

from tests.inference_server.api.serving import RunningGateway
from tests.support.client_images import decoded, encoded, halves, with_transparent_half
from tests.support.tiny_engine import tiny_engine

pytestmark = pytest.mark.torch

DRAWN = {"seed": 5, "num_inference_steps": 4, "strength": 0.5}


@pytest.fixture(scope="module")
def images() -> Iterator[openai.resources.Images]:
    with (
        RunningGateway(engine=tiny_engine()) as gateway,
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0, timeout=120) as client,
    ):
        yield client.images


def test_a_streamed_image_is_shown_before_it_is_finished(images):
    events = list(images.generate(prompt="a cat", size="64x64", stream=True, partial_images=1, extra_body={"seed": 5}))
    assert events[-1].type == "image_generation.completed"
    images = [decoded(base64.b64decode(event.b64_json)) for event in events]
    assert images[-1].size == (64, 64)
    assert all(image.format == "PNG" for image in images)


def test_an_image_and_its_mask_make_a_difference(images):
    def edit(mask: bytes | None) -> bytes:
        given = {"image": encoded(halves()), "prompt": "a cat", "extra_body": DRAWN}
        answer = images.edit(**given if mask is None else given | {"mask": mask})
        image = decoded(base64.b64decode(answer.data[0].b64_json))
        assert image.size == (64, 64)
        return image.convert("RGB").tobytes()

    plain = edit(None)
    assert edit(None) == plain
    assert edit(encoded(with_transparent_half())) != plain
