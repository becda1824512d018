"""Image to image and inpainting on real pipelines, through the components that were loaded for text to image."""

import pytest
from easel_server.engine.interface import GenerationError
from easel_server.generation.families import find_family
from easel_server.generation.parameters import GenerationParameters
from easel_server.generation.tasks import Task
from PIL import ImageChops

from tests.support.images import build_image, build_mask, digest, open_image, pixels_differ_by
from tests.support.tiny_engine import Step, generate_together, ignore_step, tiny_engine, tiny_parameters

pytestmark = pytest.mark.torch

SIDE = 64
IMAGE = build_image(SIDE, SIDE)
OTHER_IMAGE = build_image(SIDE, SIDE, color=(10, 240, 10))
MASK = build_mask(SIDE, SIDE)
INPUTS = {digest(image): image for image in (IMAGE, OTHER_IMAGE, MASK)}
TASKS = [Task.IMAGE_TO_IMAGE, Task.INPAINT]


def parameters_for(task: Task, image: bytes = IMAGE, **changes: object) -> GenerationParameters:
    return tiny_parameters(
        **{
            "task": task,
            "image_digest": digest(image),
            "mask_digest": digest(MASK) if task is Task.INPAINT else None,
            "strength": 0.6,
            "steps": 10,
        }
        | changes
    )


@pytest.mark.parametrize("model", ["sd15", "sdxl"])
def test_both_tasks_are_announced(model):
    assert set(tiny_engine(model).description.tasks) == set(Task)


def test_no_weight_is_loaded_twice():
    from easel_server.engine.pipelines import build_task_pipelines  # noqa: PLC0415  # loads torch

    from tests.support.tiny_models import build_sdxl  # noqa: PLC0415  # loads torch

    family = find_family("StableDiffusionXLPipeline")
    pipelines = [chosen.pipeline for chosen in build_task_pipelines(build_sdxl(), family).values()]
    assert len(pipelines) == 3
    assert len({id(pipeline.unet) for pipeline in pipelines}) == 1
    assert len({id(pipeline.vae) for pipeline in pipelines}) == 1


@pytest.mark.parametrize("model", ["sd15", "sdxl"])
@pytest.mark.parametrize("task", TASKS)
def test_the_image_and_the_seed_determine_the_result(model, task):
    engine = tiny_engine(model)
    [[first]] = generate_together(engine, [parameters_for(task)], INPUTS, ignore_step)
    [[again]] = generate_together(engine, [parameters_for(task)], INPUTS, ignore_step)
    [[other_seed]] = generate_together(engine, [parameters_for(task, seed=8)], INPUTS, ignore_step)
    [[other_image]] = generate_together(engine, [parameters_for(task, image=OTHER_IMAGE)], INPUTS, ignore_step)
    assert first == again
    assert len({first, other_seed, other_image}) == 3
    assert open_image(first).size == (SIDE, SIDE)


@pytest.mark.parametrize("model", ["sd15", "sdxl"])
def test_a_low_strength_stays_nearer_to_the_image_than_a_high_one(model):
    engine = tiny_engine(model)

    def distance(strength: float) -> float:
        [[generated]] = generate_together(
            engine, [parameters_for(Task.IMAGE_TO_IMAGE, strength=strength)], INPUTS, ignore_step
        )
        # An image that only goes through the autoencoder is the reference: random weights garble it too.
        [[reference]] = generate_together(
            engine, [parameters_for(Task.IMAGE_TO_IMAGE, strength=0.0011, steps=999)], INPUTS, ignore_step
        )
        difference = ImageChops.difference(open_image(generated), open_image(reference)).convert("L")
        return sum(difference.tobytes())

    assert distance(0.1) < distance(1.0)


@pytest.mark.parametrize("model", ["sd15", "sdxl"])
def test_inpainting_changes_more_where_the_mask_is_white(model):
    engine = tiny_engine(model)
    results = [
        open_image(
            generate_together(engine, [parameters_for(Task.INPAINT, seed=seed, strength=1.0)], INPUTS, ignore_step)[0][
                0
            ]
        )
        for seed in (1, 2)
    ]
    difference = ImageChops.difference(*results).convert("L")
    kept = sum(difference.crop((0, 0, SIDE // 2, SIDE)).tobytes())
    regenerated = sum(difference.crop((SIDE // 2, 0, SIDE, SIDE)).tobytes())
    assert regenerated > 2 * kept


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("strength", "denoising_steps"), [(0.1, 1), (0.3, 3), (0.58, 5), (0.999, 9), (1.0, 10)])
def test_as_many_steps_are_taken_as_are_predicted_and_progress_ends_at_all_of_them(task, strength, denoising_steps):
    seen: list[Step] = []
    # DDIM takes one timestep a step, so they can be counted.
    parameters = parameters_for(task, strength=strength, steps=10, sampler="DDIM")
    generate_together(tiny_engine(), [parameters], INPUTS, seen.append)
    assert parameters.denoising_steps == denoising_steps
    assert len(seen) == denoising_steps
    assert (seen[-1].done, seen[-1].steps) == (10, 10)


@pytest.mark.parametrize("model", ["sd15", "sdxl"])
@pytest.mark.parametrize("task", TASKS)
def test_in_a_batch_each_job_gets_its_own_image(model, task):
    engine = tiny_engine(model)
    batch = [
        parameters_for(task, seed=5, images=2),
        parameters_for(task, image=OTHER_IMAGE, seed=50, prompt="a dog"),
        parameters_for(task, seed=500),
    ]
    together = generate_together(engine, batch, INPUTS, ignore_step)
    assert [len(images) for images in together] == [2, 1, 1]
    for images, parameters in zip(together, batch, strict=True):
        [alone] = generate_together(engine, [parameters], INPUTS, ignore_step)
        assert [pixels_differ_by(one, other) <= 2 for one, other in zip(images, alone, strict=True)] == [True] * len(
            alone
        )


def test_a_strength_of_less_than_one_step_is_the_requests_fault():
    parameters = parameters_for(Task.IMAGE_TO_IMAGE, strength=0.05, steps=10)
    with pytest.raises(GenerationError, match=r"strength 0\.05 of 10 steps is less than one step"):
        generate_together(tiny_engine(), [parameters], INPUTS, ignore_step)


def test_a_missing_image_is_named():
    with pytest.raises(GenerationError, match=r"ImageToImage needs an input image \(RGB\) that didn't come"):
        generate_together(tiny_engine(), [parameters_for(Task.IMAGE_TO_IMAGE)], {digest(MASK): MASK}, ignore_step)


def test_an_image_of_another_size_is_named():
    image = build_image(72, 64)
    with pytest.raises(GenerationError, match="an input image is 72x64 pixels, expected is 64x64"):
        generate_together(
            tiny_engine(), [parameters_for(Task.IMAGE_TO_IMAGE, image=image)], {digest(image): image}, ignore_step
        )


@pytest.mark.parametrize("data", [b"no image", IMAGE[:200]], ids=["not an image", "cut off"])
def test_a_broken_image_is_the_requests_fault(data):
    with pytest.raises(GenerationError, match="an input image can't be read"):
        generate_together(
            tiny_engine(), [parameters_for(Task.IMAGE_TO_IMAGE, image=data)], {digest(data): data}, ignore_step
        )


def test_the_strength_is_written_into_the_image():
    [[generated]] = generate_together(tiny_engine(), [parameters_for(Task.IMAGE_TO_IMAGE)], INPUTS, ignore_step)
    assert "Denoising strength: 0.6" in open_image(generated).info["parameters"]
