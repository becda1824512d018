"""An image from a prompt alone."""

from typing import Final

from easel_server.generation.tasks.definition import TaskDefinition

TEXT_TO_IMAGE: Final = TaskDefinition()
