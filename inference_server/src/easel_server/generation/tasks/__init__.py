"""What is made from what: a row for each task. Gateway, parameters and engine read what differs between tasks here.

A new task is a file of this folder, a name of ``Task`` and a line of ``TASKS``. Values and pure rules only: which
pipeline serves a task is told by the name of diffusers' class.
"""

from collections.abc import Mapping, Set
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from easel_server.generation.tasks.definition import TaskDefinition, TaskInput
from easel_server.generation.tasks.image_to_image import IMAGE_TO_IMAGE
from easel_server.generation.tasks.inpaint import INPAINT
from easel_server.generation.tasks.text_to_image import TEXT_TO_IMAGE

__all__ = ["TASKS", "Task", "TaskDefinition", "TaskInput", "find_task"]


class Task(StrEnum):
    """The tasks by the names under which jobs are stored and workers say what they can do."""

    TEXT_TO_IMAGE = "TextToImage"
    IMAGE_TO_IMAGE = "ImageToImage"
    INPAINT = "Inpaint"


TASKS: Final[Mapping[Task, TaskDefinition]] = MappingProxyType(
    {
        Task.TEXT_TO_IMAGE: TEXT_TO_IMAGE,
        Task.IMAGE_TO_IMAGE: IMAGE_TO_IMAGE,
        Task.INPAINT: INPAINT,
    }
)


def find_task(inputs: Set[str]) -> Task:
    """The task that takes exactly these inputs, by their names. Raises ValueError if none does."""
    for task, definition in TASKS.items():
        if {one.name for one in definition.inputs} == inputs:
            return task
    raise ValueError(f"no task takes {sorted(inputs)}")
