"""What a pipeline's call is given for a job."""

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import torch
from PIL import Image

from easel_server.engine.interface import GenerationError
from easel_server.generation.parameters import GenerationParameters
from easel_server.generation.tasks import TASKS, TaskInput


def build_arguments(parameters: GenerationParameters, inputs: Mapping[str, bytes]) -> dict[str, Any]:
    """Arguments by diffusers' names, more than any one pipeline takes. Raises GenerationError for input images.

    The noise is made on the CPU, from ``seed + i`` for image i: a seed means the same image on any device, up to
    rounding, and in any company.
    """
    task = TASKS[parameters.task]
    seeds = range(parameters.seed, parameters.seed + parameters.images)
    arguments: dict[str, Any] = {
        "prompt": parameters.prompt,
        "width": parameters.width_pixels,
        "height": parameters.height_pixels,
        "num_inference_steps": parameters.steps,
        "guidance_scale": parameters.guidance_scale,
        "num_images_per_prompt": parameters.images,
        "generator": [torch.Generator("cpu").manual_seed(seed) for seed in seeds],
    }
    if parameters.negative_prompt:  # Stable Diffusion XL knows an empty one from none
        arguments["negative_prompt"] = parameters.negative_prompt
    arguments |= task.build_pipeline_arguments(parameters.steps, parameters.denoising_steps)
    for needed in task.inputs:
        arguments[needed.argument] = _open_input(parameters, needed, inputs)
    return arguments


def _open_input(parameters: GenerationParameters, needed: TaskInput, inputs: Mapping[str, bytes]) -> Image.Image:
    """An input image of a job. Raises GenerationError if it isn't there or isn't what it should be."""
    data = inputs.get(getattr(parameters, needed.digest_field) or "")
    if data is None:
        raise GenerationError(
            f"{parameters.task} needs an input image ({needed.mode}) that didn't come with the request"
        )
    try:
        image = Image.open(BytesIO(data))
        if image.size == (parameters.width_pixels, parameters.height_pixels):
            return image.convert(needed.mode)
    except (OSError, SyntaxError, ValueError) as error:  # as Pillow's decoders raise them
        raise GenerationError(f"an input image can't be read: {error}") from error
    raise GenerationError(
        f"an input image is {image.size[0]}x{image.size[1]} pixels, expected is "
        f"{parameters.width_pixels}x{parameters.height_pixels}"
    )
