"""What a pipeline's call is given for a batch of requests: one row for each image."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import torch
from PIL import Image

from easel_server.engine.interface import EngineRequest, GenerationError
from easel_server.generation.parameters import GenerationParameters, Task


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
    """Arguments by diffusers' names, more than any one pipeline takes. Raises GenerationError for input pictures.

    The noise is drawn on the CPU, from ``seed + i`` for image i: a seed means the same picture on any device, up to
    rounding, and in any company.
    """
    shared = requests[0].parameters
    rows = build_rows(requests)
    # Prompts are encoded once for all images of a request where each request has as many of them. Input pictures are
    # repeated by pipelines in another order than prompts, so there every image has a prompt of its own.
    counts = {request.parameters.images for request in requests}
    is_even = len(counts) == 1 and shared.task is Task.TEXT_TO_IMAGE
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
    if shared.task is not Task.TEXT_TO_IMAGE:
        arguments["strength"] = _choose_strength(shared)
        arguments["image"] = [_open(row, row.parameters.image_digest, "RGB") for row in rows]
    if shared.task is Task.INPAINT:
        arguments["mask_image"] = [_open(row, row.parameters.mask_digest, "L") for row in rows]
    return arguments


def _choose_strength(parameters: GenerationParameters) -> float:
    """Such that pipelines, which cut steps * strength to a whole number, draw exactly ``drawn_steps``."""
    return min(1.0, (parameters.drawn_steps + 0.5) / parameters.steps)


def _open(row: Row, digest: str | None, mode: str) -> Image.Image:
    """An input picture of the request. Raises GenerationError if it isn't there or isn't what it should be."""
    parameters = row.parameters
    data = row.request.inputs.get(digest or "")
    if data is None:
        raise GenerationError(f"{parameters.task} needs an input picture ({mode}) that didn't come with the request")
    try:
        picture = Image.open(BytesIO(data))
        if picture.size == (parameters.width_pixels, parameters.height_pixels):
            return picture.convert(mode)
    except (OSError, SyntaxError, ValueError) as error:  # as Pillow's decoders raise them
        raise GenerationError(f"an input picture can't be read: {error}") from error
    raise GenerationError(
        f"an input picture is {picture.size[0]}x{picture.size[1]} pixels, expected is "
        f"{parameters.width_pixels}x{parameters.height_pixels}"
    )
