"""What a pipeline's call is given for a job. Nothing that a job asks for is left out in silence."""

from collections.abc import Mapping
from io import BytesIO
from typing import Any, Final

import torch
from PIL import Image

from easel_server.engine.interface import GenerationError
from easel_server.generation.families import Family, NegativePrompts
from easel_server.generation.parameters import GenerationParameters
from easel_server.generation.tasks import TASKS, TaskInput

# Arguments that a call may lack without harm: an image to begin with says its size by itself, one image is what a call
# gives anyway, and what guidance a pipeline without it gives is said by list_unused.
SIDES: Final = frozenset({"width", "height"})
GUIDANCE: Final = frozenset({"guidance_scale"})
IMAGE: Final = "image"  # the one to begin with
COUNT: Final = frozenset({"num_images_per_prompt"})


def build_arguments(
    parameters: GenerationParameters, inputs: Mapping[str, bytes] | None, family: Family, accepted: frozenset[str]
) -> dict[str, Any]:
    """Arguments by diffusers' names, of those that the call has (``accepted``).

    The noise is made on the CPU, from ``seed + i`` for image i: a seed means the same image on any device, up to
    rounding, and in any company. ``inputs`` are None where an earlier stage gives the image.
    ``strength`` is the client's: how many steps it means is the pipeline's own rule.

    Raises GenerationError for input images, and for what the model can't do.
    """
    task = TASKS[parameters.task]
    _check_size(parameters, family)
    if parameters.steps < family.least_steps:
        raise GenerationError(
            f"{parameters.steps} step(s) are too few for {family.name}; allowed are {family.least_steps} or more"
        )
    arguments: dict[str, Any] = {
        "prompt": parameters.prompt,
        "width": parameters.width_pixels,
        "height": parameters.height_pixels,
        "num_inference_steps": parameters.steps,
        "guidance_scale": parameters.guidance_scale,
        "num_images_per_prompt": parameters.images,
        "generator": [torch.Generator("cpu").manual_seed(seed) for seed in list_seeds(parameters)],
        **_choose_negative_prompt(parameters, family),
        **_choose_clip_layer(parameters, family),
        **({"eta": parameters.eta} if parameters.eta else {}),
    }
    if task.default_strength is not None:
        arguments["strength"] = _check_strength(parameters, family, task.default_strength)
    for needed in task.inputs:
        if inputs is None:
            continue
        opened = _open_input(parameters, needed, inputs)
        # Of one image pipelines make the latents of all with the first generator, or fail; so each gets its own.
        is_repeated = needed.argument == IMAGE and parameters.images > 1
        arguments[needed.argument] = [opened] * parameters.images if is_repeated else opened
    _check_accepted(parameters, arguments.keys() - accepted)
    return {name: value for name, value in arguments.items() if name in accepted}


def list_seeds(parameters: GenerationParameters) -> range:
    """The seed of each image."""
    return range(parameters.seed, parameters.seed + parameters.images)


def list_unused(parameters: GenerationParameters, family: Family) -> tuple[str, ...]:
    """What a job asks for that changes nothing with this model, in sentences."""
    unused = []
    if not family.is_guided and parameters.guidance_scale != family.guidance_scale:
        unused.append(f"the guidance scale has no effect: {family.name} was distilled without guidance")
    if parameters.negative_prompt and family.count_passes(parameters.guidance_scale, parameters.negative_prompt) == 1:
        why = (
            f"at a guidance scale of {parameters.guidance_scale:g}; it has one above 1"
            if family.negative_prompts is NegativePrompts.WITH_GUIDANCE
            else f"with {family.name}"
        )
        unused.append(f"the negative prompt has no effect {why}")
    return tuple(unused)


def _choose_negative_prompt(parameters: GenerationParameters, family: Family) -> dict[str, Any]:
    if not parameters.negative_prompt or family.negative_prompts is NegativePrompts.WITHOUT_EFFECT:
        return {}  # Stable Diffusion XL knows an empty one from none
    chosen: dict[str, Any] = {"negative_prompt": parameters.negative_prompt}
    if family.true_guidance_scale is not None:
        chosen["true_cfg_scale"] = family.true_guidance_scale
    return chosen


def _choose_clip_layer(parameters: GenerationParameters, family: Family) -> dict[str, Any]:
    """diffusers counts from the layer that the family takes anyway, requests from the last."""
    if parameters.clip_skip is None or family.clip_layer is None or parameters.clip_skip <= family.clip_layer:
        return {}
    return {"clip_skip": parameters.clip_skip - family.clip_layer}


def _check_size(parameters: GenerationParameters, family: Family) -> None:
    step = family.size_step_pixels
    width, height = parameters.width_pixels, parameters.height_pixels
    if width % step or height % step:
        near = f"{round(width / step) * step}x{round(height / step) * step}"
        raise GenerationError(
            f"{width}x{height} pixels can't be generated by {family.name}, whose sides are multiples of {step}; "
            f"near it is {near}"
        )


def _check_strength(parameters: GenerationParameters, family: Family, default: float) -> float:
    strength = parameters.strength if parameters.strength is not None else default
    if family.strength_rule.count_steps(parameters.steps, strength) < 1:
        raise GenerationError(
            f"strength {strength} of {parameters.steps} steps is less than one step; ask for more of either"
        )
    return strength


def _check_accepted(parameters: GenerationParameters, left_out: set[str]) -> None:
    harmless = (
        GUIDANCE | (SIDES if TASKS[parameters.task].inputs else set()) | (COUNT if parameters.images == 1 else set())
    )
    if refused := sorted(left_out - harmless):
        raise GenerationError(f"this model takes no {', '.join(refused)}; leave it out, or ask another model")


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
