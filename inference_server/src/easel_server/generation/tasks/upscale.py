"""A larger image of one that is there: by a network or by interpolation, without a prompt and without the model."""

from typing import Final

from easel_server.generation.tasks.definition import TaskDefinition
from easel_server.generation.tasks.image_to_image import IMAGE

UPSCALE: Final = TaskDefinition(inputs=(IMAGE,), is_denoised=False)
