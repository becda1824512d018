"""Several requests in one call: each gets what it would get alone, up to rounding."""

from io import BytesIO
from typing import Any

import pytest
from easel_server.engine.interface import Step
from PIL import Image

from tests.support.images import open_image, pixels_differ_by
from tests.support.tiny_engine import generate, ignore_step, tiny_engine, tiny_parameters

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
    tiny_engine().generate(requests, {}, seen.append)
    assert [step.done for step in seen] == sorted(step.done for step in seen)
    assert (seen[-1].done, seen[-1].steps) == (6, 6)


def test_a_mix_with_and_without_negative_prompt_is_no_batch():
    """Stable Diffusion XL takes an empty negative prompt for another than none."""
    assert tiny_parameters().batch_key != tiny_parameters(negative_prompt="fur").batch_key


@MODELS
@pytest.mark.parametrize("rows", [1, 3])
def test_previews_are_one_for_each_request_and_change_nothing(model, rows):
    engine = tiny_engine(model)
    requests = [tiny_parameters(seed=10 * row, images=1 + row % 2, steps=8) for row in range(rows)]
    expected = engine.generate(requests, {}, ignore_step)
    previews: dict[int, list[bytes]] = {}

    def look(step: Step) -> None:
        previews[step.done] = step.build_previews()

    assert engine.generate(requests, {}, look) == expected
    side = open_image(expected[0][0]).size
    assert {len(shown) for shown in previews.values()} == {rows}
    assert {(open_image(data).format, open_image(data).size) for shown in previews.values() for data in shown} == {
        ("PNG", side)
    }
    # After the last step the preview is the image itself.
    for images, preview in zip(expected, previews[8], strict=True):
        assert pixels_differ_by(images[0], preview) <= TOLERANCE
    assert pixels_differ_by(previews[8][0], previews[2][0]) > TOLERANCE


def test_a_preview_that_does_not_fit_into_memory_is_left_out(monkeypatch, caplog):
    import torch  # noqa: PLC0415  # most tests don't need it
    from easel_server.engine.images.previews import decode_previews  # noqa: PLC0415  # loads torch

    from tests.support.tiny_models import build_sd15  # noqa: PLC0415  # loads torch

    def run_out(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    pipeline: Any = build_sd15()
    monkeypatch.setattr(pipeline.vae, "decode", run_out)
    assert decode_previews(pipeline, torch.tensor(1), torch.zeros(1, 4, 8, 8), [0]) == []
    assert caplog.messages == ["no preview: the memory of cpu doesn't suffice for it"]


def test_latents_that_are_no_plain_image_have_no_preview():
    import torch  # noqa: PLC0415  # most tests don't need it
    from easel_server.engine.images.previews import decode_previews  # noqa: PLC0415  # loads torch

    from tests.support.tiny_models import build_sd15  # noqa: PLC0415  # loads torch

    packed = torch.zeros(1, 64, 16)  # as Flux keeps them
    assert decode_previews(build_sd15(), torch.tensor(1), packed, [0]) == []


def test_a_preview_of_a_large_image_is_bounded():
    sizes: list[tuple[int, int]] = []

    def look(step: Step) -> None:
        sizes.extend(open_image(data).size for data in step.build_previews())

    parameters = tiny_parameters(width_pixels=640, height_pixels=320, steps=1, guidance_scale=1.0, sampler="DDIM")
    tiny_engine().generate([parameters], {}, look)
    assert sizes == [(512, 256)]
