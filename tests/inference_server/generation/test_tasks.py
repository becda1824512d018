"""The tasks' table: that it is whole, and what it says of steps and strength."""

import pytest
from easel_server.generation.parameters import GenerationParameters
from easel_server.generation.tasks import TASK_OF_INPUTS, TASKS, Task

from tests.support.jobs import build_parameters


def test_every_task_has_its_row_and_every_input_a_digest_in_the_parameters():
    assert set(TASKS) == set(Task)
    fields = {one.digest_field for definition in TASKS.values() for one in definition.inputs}
    assert fields <= set(GenerationParameters.model_fields)


@pytest.mark.parametrize(
    ("inputs", "task"),
    [(set(), Task.TEXT_TO_IMAGE), ({"image"}, Task.IMAGE_TO_IMAGE), ({"image", "mask"}, Task.INPAINT)],
)
def test_the_inputs_decide_the_task(inputs, task):
    assert TASK_OF_INPUTS[frozenset(inputs)] is task


@pytest.mark.parametrize(
    ("task", "strength", "taken"),
    [
        (Task.TEXT_TO_IMAGE, None, 10),
        (Task.TEXT_TO_IMAGE, 0.3, 10),  # means nothing there
        (Task.IMAGE_TO_IMAGE, None, 10),
        (Task.IMAGE_TO_IMAGE, 0.0, 1),
        (Task.INPAINT, 0.58, 5),
        (Task.INPAINT, 1.0, 10),
    ],
)
def test_strength_is_the_share_of_the_steps_that_are_taken(task, strength, taken):
    parameters = build_parameters(task=task, steps=10, strength=strength)
    assert parameters.denoising_steps == taken
