"""What a pipeline's call is given for a batch of jobs: one row for each image."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import torch
from PIL import Image

from easel_server.engine.interface import GenerationError
from easel_server.generation.parameters import GenerationParameters
from easel_server.generation.tasks import TASKS, TaskInput


def build_arguments(batch: Sequence[GenerationParameters], inputs: Mapping[str, bytes]) -> dict[str, Any]:
    """Arguments by diffusers' names, more than any one pipeline takes. Raises GenerationError for input images.

    The noise is made on the CPU, from ``seed + i`` for image i: a seed means the same image on any device, up to
    rounding, and in any company.
    """
    shared = batch[0]
    task = TASKS[shared.task]
    rows = [parameters for parameters in batch for _ in range(parameters.images)]
    # Prompts are encoded once for all images of a job where each job has as many of them. Input images are repeated by
    # pipelines in another order than prompts, so there every image has a prompt of its own.
    counts = {parameters.images for parameters in batch}
    is_even = len(counts) == 1 and not task.inputs
    prompted = batch if is_even else rows
    arguments: dict[str, Any] = {
        "prompt": [parameters.prompt for parameters in prompted],
        "width": shared.width_pixels,
        "height": shared.height_pixels,
        "num_inference_steps": shared.steps,
        "guidance_scale": shared.guidance_scale,
        "num_images_per_prompt": counts.pop() if is_even else 1,
        "generator": [torch.Generator("cpu").manual_seed(seed) for seed in list_seeds(batch)],
    }
    if shared.negative_prompt:  # of all or of none: see GenerationParameters.batch_key
        arguments["negative_prompt"] = [parameters.negative_prompt for parameters in prompted]
    arguments |= task.build_pipeline_arguments(shared.steps, shared.denoising_steps)
    for needed in task.inputs:
        arguments[needed.argument] = [_open_input(parameters, needed, inputs) for parameters in rows]
    return arguments


def list_seeds(batch: Sequence[GenerationParameters]) -> list[int]:
    """The seed of each image of a batch, in order."""
    return [parameters.seed + index for parameters in batch for index in range(parameters.images)]


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
