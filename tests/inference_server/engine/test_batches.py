"""Several requests in one call: each gets what it would get alone, up to rounding."""

from io import BytesIO

import pytest
from PIL import Image

from tests.support.images import open_image, pixels_differ_by
from tests.support.tiny_engine import Step, generate, generate_together, tiny_engine, tiny_parameters

pytestmark = pytest.mark.torch

# Rounding differs with a batch's size; with random weights it shows in single steps of 255.
TOLERANCE = 2
MODELS = pytest.mark.parametrize("model", ["sd15", "sdxl"])


@MODELS
@pytest.mark.parametrize(
    "negative_prompts", [("", "", ""), ("fur", "fur, claws", "whiskers")], ids=["without negative", "negative prompts"]
)
def test_each_job_is_generated_as_if_alone(model, negative_prompts):
    engine = tiny_engine(model)
    requests = [
        tiny_parameters(prompt=prompt, seed=seed, images=images, negative_prompt=negative)
        for prompt, seed, images, negative in zip(
            ("a cat", "a dog", "a house by the sea"), (1, 77, 2**62), (1, 3, 2), negative_prompts, strict=True
        )
    ]
    assert len({parameters.batch_key for parameters in requests}) == 1
    together = generate(engine, *requests)
    assert [len(images) for images in together] == [1, 3, 2]
    for images, parameters in zip(together, requests, strict=True):
        alone = generate(engine, parameters)[0]
        for index, (one, other) in enumerate(zip(images, alone, strict=True)):
            assert pixels_differ_by(one, other) <= TOLERANCE
            assert f"Seed: {parameters.seed + index}," in open_image(one).info["parameters"]


def test_formats_are_each_requests_own():
    formats = ["png", "jpeg", "webp"]
    generated = generate(tiny_engine(), *(tiny_parameters(image_format=name) for name in formats))
    assert [Image.open(BytesIO(images[0])).format for images in generated] == ["PNG", "JPEG", "WEBP"]


def test_progress_is_one_for_the_whole_batch():
    seen: list[Step] = []
    requests = [tiny_parameters(seed=seed, steps=6) for seed in (1, 2)]
    generate_together(tiny_engine(), requests, {}, seen.append)
    assert [step.done for step in seen] == sorted(step.done for step in seen)
    assert (seen[-1].done, seen[-1].steps) == (6, 6)


def test_jobs_of_one_size_go_together_whatever_else_they_ask_for():
    other = tiny_parameters(negative_prompt="fur", steps=9, sampler="Euler a", guidance_scale=1.0, images=3)
    assert tiny_parameters().batch_key == other.batch_key
    assert tiny_parameters(width_pixels=128).batch_key != tiny_parameters(height_pixels=128).batch_key
