"""What is made from what: a row for each task. Gateway, parameters and engine read what differs between tasks here.

A new task is a file of this folder, a name of ``Task`` and a line of ``TASKS``. Values and pure rules only: which
pipeline serves a task is given by the name of diffusers' class.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from easel_server.generation.tasks.definition import TaskDefinition, TaskInput
from easel_server.generation.tasks.image_to_image import IMAGE_TO_IMAGE
from easel_server.generation.tasks.inpaint import INPAINT
from easel_server.generation.tasks.text_to_image import TEXT_TO_IMAGE
from easel_server.generation.tasks.upscale import UPSCALE

__all__ = ["INPUTS", "TASKS", "TASK_OF_INPUTS", "Task", "TaskDefinition", "TaskInput"]


class Task(StrEnum):
    """The tasks by the names under which jobs are stored and workers say what they can do."""

    TEXT_TO_IMAGE = "TextToImage"
    IMAGE_TO_IMAGE = "ImageToImage"
    INPAINT = "Inpaint"
    UPSCALE = "Upscale"


TASKS: Final[Mapping[Task, TaskDefinition]] = MappingProxyType(
    {
        Task.TEXT_TO_IMAGE: TEXT_TO_IMAGE,
        Task.IMAGE_TO_IMAGE: IMAGE_TO_IMAGE,
        Task.INPAINT: INPAINT,
        Task.UPSCALE: UPSCALE,
    }
)

INPUTS: Final[Mapping[str, TaskInput]] = MappingProxyType(
    {one.name: one for definition in TASKS.values() for one in definition.inputs}
)

# Which task a request asks for, by the names of the inputs that come with it; to enlarge, it says so.
TASK_OF_INPUTS: Final[Mapping[frozenset[str], Task]] = MappingProxyType(
    {
        frozenset(one.name for one in definition.inputs): task
        for task, definition in TASKS.items()
        if definition.is_denoised
    }
)
