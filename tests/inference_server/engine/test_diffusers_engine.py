"""The engine on real pipelines: same seed same bytes, progress, stopping, encodings, refusals."""

import logging
from io import BytesIO

import pytest
from easel_server.engine.interface import GenerationError, StopGenerationError
from easel_server.generation.parameters import ImageFormat
from PIL import Image

from tests.support.images import pixels_differ_by
from tests.support.tiny_engine import (
    Step,
    generate,
    generate_together,
    tiny_engine,
    tiny_model_directory,
    tiny_parameters,
)

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("model", ["sd15", "sdxl"])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(model):
    engine = tiny_engine(model)
    first = generate(engine, tiny_parameters(seed=1))[0]
    again = generate(engine, tiny_parameters(seed=1))[0]
    other = generate(engine, tiny_parameters(seed=2))[0]
    assert first == again
    assert first != other


@pytest.mark.parametrize("model", ["sd15", "sdxl"])
@pytest.mark.parametrize("negative_prompt", ["", "fur"])
def test_a_request_alone_is_exactly_what_the_pipelines_own_call_gives(model, negative_prompt):
    import torch  # noqa: PLC0415  # most tests don't need it
    from diffusers import DiffusionPipeline  # noqa: PLC0415  # loads torch

    parameters = tiny_parameters(images=2, negative_prompt=negative_prompt)
    pipeline = DiffusionPipeline.from_pretrained(tiny_model_directory(model), local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.vae.enable_slicing()  # as the engine does: it rounds otherwise than decoding all at once
    expected = pipeline(
        parameters.prompt,
        negative_prompt=negative_prompt or None,
        width=parameters.width_pixels,
        height=parameters.height_pixels,
        num_inference_steps=parameters.steps,
        guidance_scale=parameters.guidance_scale,
        num_images_per_prompt=2,
        generator=[torch.Generator("cpu").manual_seed(parameters.seed + index) for index in range(2)],
    ).images
    generated = generate(tiny_engine(model), parameters)[0]
    for data, image in zip(generated, expected, strict=True):
        assert Image.open(BytesIO(data)).tobytes() == image.tobytes()


def test_image_number_i_is_the_image_of_seed_plus_i():
    engine = tiny_engine()
    batch = generate(engine, tiny_parameters(seed=10, images=3))[0]
    alone = generate(engine, tiny_parameters(seed=12))[0]
    assert len(batch) == 3
    assert pixels_differ_by(batch[2], alone[0]) <= 1  # rounding differs with the batch's size
    assert pixels_differ_by(batch[0], alone[0]) > 50


@pytest.mark.parametrize(
    "change", [{"prompt": "a dog"}, {"negative_prompt": "fur"}, {"guidance_scale": 2.0}, {"steps": 5}]
)
def test_each_parameter_changes_the_image(change):
    engine = tiny_engine()
    assert generate(engine, tiny_parameters(**change))[0] != generate(engine, tiny_parameters())[0]


@pytest.mark.parametrize(("width", "height"), [(64, 64), (96, 64), (72, 104)])
def test_the_image_has_the_size_that_was_asked_for(width, height):
    [data] = generate(tiny_engine(), tiny_parameters(width_pixels=width, height_pixels=height))[0]
    assert Image.open(BytesIO(data)).size == (width, height)


@pytest.mark.parametrize("model", ["sd15", "sdxl"])
def test_progress_never_falls_and_ends_at_the_number_of_steps(model):
    seen: list[tuple[int, int]] = []
    generate_together(
        tiny_engine(model), [tiny_parameters(steps=8)], {}, lambda step: seen.append((step.done, step.steps))
    )
    assert [total for _, total in seen] == [8] * len(seen)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (8, 8)


def test_a_generation_stops_at_the_step_at_which_its_callback_raises_and_the_next_is_unharmed():
    engine = tiny_engine()
    expected = generate(engine, tiny_parameters())[0]
    seen = []

    def stop_at_two(step: Step) -> None:
        seen.append(step.done)
        if step.done == 2:
            raise StopGenerationError

    with pytest.raises(StopGenerationError):
        generate_together(engine, [tiny_parameters(steps=20)], {}, stop_at_two)
    assert seen[-1] == 2
    assert generate(engine, tiny_parameters())[0] == expected


@pytest.mark.parametrize("image_format", list(ImageFormat))
def test_images_come_in_the_format_asked_for(image_format):
    [data] = generate(tiny_engine(), tiny_parameters(image_format=image_format))[0]
    assert Image.open(BytesIO(data)).format == image_format.name


def test_a_png_says_how_it_was_made():
    parameters = tiny_parameters(prompt="ein Kätzchen 🐈", negative_prompt="fur", seed=41, images=2)
    data = generate(tiny_engine(), parameters)[0][1]
    text = Image.open(BytesIO(data)).info["parameters"]
    assert text.startswith("ein Kätzchen 🐈\nNegative prompt: fur\nSteps: 4, Sampler: PNDMScheduler, CFG scale: 7.5, ")
    assert "Seed: 42, Size: 64x64, Model: sd15, " in text


def test_a_prompt_beyond_the_text_encoder_is_cut_without_a_word_of_it_on_the_log(caplog):
    engine = tiny_engine()
    libraries = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    for library in libraries:
        library.addHandler(caplog.handler)  # they don't pass their records on
    try:
        cut = generate(engine, tiny_parameters(prompt="secret " * 200))[0]
        longer = generate(engine, tiny_parameters(prompt="secret " * 201))[0]
    finally:
        for library in libraries:
            library.removeHandler(caplog.handler)
    assert pixels_differ_by(cut[0], longer[0]) == 0
    assert caplog.messages == []


def test_a_size_that_the_model_cant_have_is_the_requests_fault():
    with pytest.raises(
        GenerationError, match=r"65x64 pixels can't be generated by Stable Diffusion, .* multiples of 8"
    ):
        generate(tiny_engine(), tiny_parameters().model_copy(update={"width_pixels": 65}))  # past our own validation


def test_more_steps_than_the_scheduler_was_trained_with_are_the_requests_fault():
    with pytest.raises(GenerationError, match="1000 steps are more than this model's scheduler has: 1 to 999"):
        generate(tiny_engine(), tiny_parameters(steps=1000))[0]


@pytest.mark.parametrize("model", ["sd15", "sdxl"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps_are_served(model, steps):
    assert generate(tiny_engine(model), tiny_parameters(steps=steps))[0]
