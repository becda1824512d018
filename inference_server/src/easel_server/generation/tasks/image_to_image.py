"""An image from another one: noise is added to it, and taken away by the last ``strength`` of the steps."""

from typing import Final

from easel_server.generation.tasks.definition import TaskDefinition, TaskInput

IMAGE: Final = TaskInput("image", digest_field="image_digest", mode="RGB", argument="image")

IMAGE_TO_IMAGE: Final = TaskDefinition(
    pipeline="AutoPipelineForImage2Image",
    inputs=(IMAGE,),
    default_strength=0.8,  # diffusers' own
)
