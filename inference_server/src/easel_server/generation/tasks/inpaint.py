"""An image that is generated anew where a mask is white (255), and kept where it is black."""

from typing import Final

from easel_server.generation.tasks.definition import TaskDefinition, TaskInput
from easel_server.generation.tasks.image_to_image import IMAGE

MASK: Final = TaskInput("mask", digest_field="mask_digest", mode="L", argument="mask_image")

INPAINT: Final = TaskDefinition(
    pipeline="AutoPipelineForInpainting",
    inputs=(IMAGE, MASK),
    default_strength=1.0,  # diffusers' own
)
