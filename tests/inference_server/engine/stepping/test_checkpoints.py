"""A job that goes on from a checkpoint ends with the very image that it would have ended with uninterrupted."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from easel_contract.gateway_config import Reproducibility
from easel_contract.server_config import ModelConfig
from easel_server.engine import loading
from easel_server.generation.parameters import GenerationParameters
from easel_server.generation.samplers import SAMPLERS
from easel_server.generation.tasks import Task

from tests.inference_server.engine.stepping.running import (
    INPUTS,
    go_on,
    image_parameters,
    images_of,
    run_alone,
    take_checkpoint,
)
from tests.support.nightly import by_day
from tests.support.tiny_engine import tiny_engine, tiny_model_directory, tiny_parameters

pytestmark = pytest.mark.torch

MODELS = pytest.mark.parametrize("model", ["sd15", "sdxl"])
STEPS = 6
JOB = tiny_parameters(steps=STEPS, sampler="DPM++ 2M Karras")


@pytest.mark.parametrize(
    ("model", "sampler"),
    by_day(product(("sd15", "sdxl"), (None, *SAMPLERS)), lambda case: case[0] == "sd15" or case[1] is None),
)
def test_of_every_sampler_each_step_is_a_place_to_go_on_from(model: str, sampler: str | None) -> None:
    engine = tiny_engine(model)
    parameters = tiny_parameters(steps=STEPS, sampler=sampler, images=2)
    expected = run_alone(engine, parameters)
    for steps in (1, 2, 3, STEPS - 1):
        assert run_alone(engine, parameters, checkpoint=take_checkpoint(engine, parameters, steps=steps)) == expected


def test_between_two_evaluations_of_a_step_a_pipeline_that_tells_of_whole_ones_only_can_be_left() -> None:
    engine = tiny_engine("pixart-sigma")
    parameters = tiny_parameters(steps=STEPS, sampler="Heun")
    expected = run_alone(engine, parameters)
    for evaluations in (2, 3, 4, 5):
        assert (
            run_alone(engine, parameters, checkpoint=take_checkpoint(engine, parameters, steps=evaluations)) == expected
        )


@MODELS
@pytest.mark.parametrize("task", [Task.IMAGE_TO_IMAGE, Task.INPAINT])
@pytest.mark.parametrize("sampler", ["Euler a", "DPM++ 2M", "UniPC"])
def test_what_begins_with_an_image_goes_on_as_well(model: str, task: Task, sampler: str) -> None:
    engine = tiny_engine(model)
    parameters = image_parameters(task, sampler=sampler, images=2)
    expected = run_alone(engine, parameters)
    for steps in (1, 4):
        assert run_alone(engine, parameters, checkpoint=take_checkpoint(engine, parameters, steps=steps)) == expected


def test_another_worker_goes_on_where_this_one_has_stopped_and_takes_the_steps_that_are_left_only() -> None:
    checkpoint = take_checkpoint(tiny_engine(), JOB, steps=4)
    config = ModelConfig(name="sd15", source=str(tiny_model_directory()))
    other = loading.load_engine(config, hub_token=None, max_batch_images=1)
    generation = other.begin(JOB, {}, checkpoint=checkpoint)
    assert generation.steps_done == 4
    assert go_on(other, [generation]) == STEPS - 4
    assert images_of(generation) == run_alone(tiny_engine(), JOB)


def test_one_that_was_handed_on_twice_ends_with_the_same_image() -> None:
    engine = tiny_engine()
    second = engine.begin(JOB, {}, checkpoint=take_checkpoint(engine, JOB, steps=2))
    engine.step([second])
    checkpoint = second.checkpoint()
    assert checkpoint is not None
    assert run_alone(engine, JOB, checkpoint=checkpoint) == run_alone(engine, JOB)


def test_it_goes_on_beside_others() -> None:
    engine = tiny_engine()
    parameters = JOB.model_copy(update={"reproducibility": Reproducibility.EXACT})
    neighbour = engine.begin(tiny_parameters(seed=5, steps=8), {})
    generation = engine.begin(parameters, {}, checkpoint=take_checkpoint(engine, parameters, steps=3))
    go_on(engine, [neighbour, generation])
    assert images_of(generation) == run_alone(engine, parameters)


DAMAGED = {
    "empty": lambda data: b"",
    "cut off": lambda data: data[:-9],
    "only its beginning": lambda data: data[:40],
    "longer": lambda data: data + b"\0" * 8,
    "another header": lambda data: data.replace(b"subject", b"snbject"),
    "no such file": lambda data: bytes(range(256)) * 8,
    "of another version": lambda data: data.replace(b'subject\\": \\"', b'subject\\": \\"0', 1),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_checkpoint_that_does_not_fit_is_ignored(damage: str) -> None:
    engine = tiny_engine()
    data = take_checkpoint(engine, JOB, steps=4)
    damaged = DAMAGED[damage](data)
    assert damaged != data
    generation = engine.begin(JOB, {}, checkpoint=damaged)
    assert go_on(engine, [generation]) == STEPS
    assert images_of(generation) == run_alone(engine, JOB)


@pytest.mark.parametrize(
    "other",
    [JOB.model_copy(update={name: value}) for name, value in {"seed": 8, "prompt": "a dog", "steps": 7}.items()],
    ids=["seed", "prompt", "steps"],
)
def test_a_checkpoint_of_another_job_is_ignored(other: GenerationParameters) -> None:
    engine = tiny_engine()
    generation = engine.begin(other, {}, checkpoint=take_checkpoint(engine, JOB, steps=4))
    assert generation.steps_done == 0
    go_on(engine, [generation])
    assert images_of(generation) == run_alone(engine, other)


@pytest.mark.parametrize("other", ["resolved_revision", "files", "quantization", "step_cache"])
def test_a_checkpoint_of_other_weights_is_ignored(other: str) -> None:
    engine = tiny_engine()
    checkpoint = take_checkpoint(engine, JOB, steps=4)
    described = engine.description
    change: Any = {other: "other"}
    try:
        engine.description = replace(described, **change)  # type: ignore[misc]
        assert engine.begin(JOB, {}, checkpoint=checkpoint).steps_done == 0
    finally:
        engine.description = described  # type: ignore[misc]


def test_there_is_nothing_to_keep_before_the_first_step_and_after_the_last() -> None:
    generation = tiny_engine().begin(JOB, INPUTS)
    assert generation.checkpoint() is None
    go_on(tiny_engine(), [generation])
    assert generation.checkpoint() is None


def test_a_checkpoint_of_stable_diffusion_xl_is_its_latents_and_little_more() -> None:
    import torch  # noqa: PLC0415  # most tests don't need it
    from easel_server.engine.stepping import checkpoints  # noqa: PLC0415  # loads torch

    latents = torch.zeros(1, 4, 128, 128, dtype=torch.float16)  # of 1024x1024 pixels
    data = checkpoints.write_checkpoint(checkpoints.Checkpoint(0, 3, latents, {"_step_index": 4}), "subject")
    assert data is not None
    assert 128 * 1024 <= len(data) <= 129 * 1024


def test_a_checkpoint_has_a_bound_and_what_a_scheduler_notes_must_be_plain() -> None:
    import torch  # noqa: PLC0415  # most tests don't need it
    from easel_server.engine.stepping import checkpoints  # noqa: PLC0415  # loads torch

    large = torch.zeros(checkpoints.MAX_CHECKPOINT_BYTES // 4)
    small = torch.zeros(4)
    assert checkpoints.write_checkpoint(checkpoints.Checkpoint(0, 3, large, {}), "subject") is None
    assert checkpoints.write_checkpoint(checkpoints.Checkpoint(0, 3, small, {"noted": object()}), "subject") is None
