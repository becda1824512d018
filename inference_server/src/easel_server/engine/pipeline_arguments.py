"""What a pipeline's call is given for a batch of requests: one row for each image."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import torch
from PIL import Image

from easel_server.engine.interface import EngineRequest, GenerationError
from easel_server.generation.parameters import GenerationParameters
from easel_server.generation.tasks import TASKS, TaskInput


@dataclass(frozen=True)
class Row:
    """One image of one request."""

    request: EngineRequest
    seed: int

    @property
    def parameters(self) -> GenerationParameters:
        """Of its request."""
        return self.request.parameters


def build_rows(requests: Sequence[EngineRequest]) -> list[Row]:
    """The images of a batch, in order."""
    return [
        Row(request, request.parameters.seed + index)
        for request in requests
        for index in range(request.parameters.images)
    ]


def first_rows(requests: Sequence[EngineRequest]) -> list[int]:
    """Where each request's images begin."""
    starts = [0]
    for request in requests[:-1]:
        starts.append(starts[-1] + request.parameters.images)
    return starts


def build_arguments(requests: Sequence[EngineRequest]) -> dict[str, Any]:
    """Arguments by diffusers' names, more than any one pipeline takes. Raises GenerationError for input images.

    The noise is drawn on the CPU, from ``seed + i`` for image i: a seed means the same image on any device, up to
    rounding, and in any company.
    """
    shared = requests[0].parameters
    task = TASKS[shared.task]
    rows = build_rows(requests)
    # Prompts are encoded once for all images of a request where each request has as many of them. Input images are
    # repeated by pipelines in another order than prompts, so there every image has a prompt of its own.
    counts = {request.parameters.images for request in requests}
    is_even = len(counts) == 1 and not task.inputs
    prompted = requests if is_even else [row.request for row in rows]
    arguments: dict[str, Any] = {
        "prompt": [request.parameters.prompt for request in prompted],
        "width": shared.width_pixels,
        "height": shared.height_pixels,
        "num_inference_steps": shared.steps,
        "guidance_scale": shared.guidance_scale,
        "num_images_per_prompt": counts.pop() if is_even else 1,
        "generator": [torch.Generator("cpu").manual_seed(row.seed) for row in rows],
    }
    if shared.negative_prompt:  # of all or of none: see GenerationParameters.batch_key
        arguments["negative_prompt"] = [request.parameters.negative_prompt for request in prompted]
    arguments |= task.build_pipeline_arguments(shared.steps, shared.strength)
    for needed in task.inputs:
        arguments[needed.argument] = [_open_input(row, needed) for row in rows]
    return arguments


def _open_input(row: Row, needed: TaskInput) -> Image.Image:
    """An input image of the request. Raises GenerationError if it isn't there or isn't what it should be."""
    parameters = row.parameters
    data = row.request.inputs.get(getattr(parameters, needed.digest_field) or "")
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
