"""The second pass over an enlarged image ("hires fix"), as one more stage of a job."""

import copy
from dataclasses import replace

from PIL import Image

from easel_server.engine.add_ons.upscalers import Network, Upscalers, enlarge_latents
from easel_server.engine.arguments import build_arguments, list_seeds
from easel_server.engine.diffusers_generation import Stage
from easel_server.engine.pipelines import TaskPipeline
from easel_server.engine.prompts.encoding import SEQUENCE_LENGTH
from easel_server.generation.add_ons import LATENT_MODES, HiresPass
from easel_server.generation.families import Family
from easel_server.generation.parameters import GenerationParameters
from easel_server.generation.tasks import Task


def add_second_pass(
    stages: list[Stage],
    parameters: GenerationParameters,
    chosen: TaskPipeline,
    family: Family,
    *,
    upscalers: Upscalers,
    network: Network | None,
) -> list[Stage]:
    """The stages with one more, that begins with what they give, enlarged: the image-to-image call of the model itself.

    Its noise is from the same seeds, anew, as AUTOMATIC1111's. ``chosen`` is that call's pipeline; the job
    has a copy of it. Raises GenerationError for what the model can't do.
    """
    hires = parameters.hires
    assert hires is not None  # noqa: S101  # who asks knows
    second = _describe_second(parameters, hires)
    chosen.schedulers.check_steps(second.steps)
    pipeline = copy.copy(chosen.pipeline)
    pipeline.scheduler = chosen.schedulers.build(parameters.sampler, list_seeds(parameters))
    arguments = build_arguments(second, None, family, chosen.accepted)
    if SEQUENCE_LENGTH in stages[0].arguments:  # the same prompt
        arguments[SEQUENCE_LENGTH] = stages[0].arguments[SEQUENCE_LENGTH]
    size = hires.width_pixels, hires.height_pixels
    share = _find_share(parameters)
    first = [replace(each, begins_at=each.begins_at * share, ends_at=each.ends_at * share) for each in stages]
    if hires.upscaler in LATENT_MODES and not hires.key:
        columns, rows = (side // pipeline.vae_scale_factor for side in size)
        first[-1] = replace(first[-1], arguments={**first[-1].arguments, "output_type": "latent"})
        return [
            *first,
            Stage(
                pipeline,
                arguments,
                chosen.accepted,
                begins_at=share,
                size=size,
                enlarge=lambda latents: enlarge_latents(latents, (columns, rows), hires.upscaler),
            ),
        ]
    return [
        *first,
        Stage(
            pipeline,
            arguments,
            chosen.accepted,
            begins_at=share,
            size=size,
            enlarge=lambda images: [upscalers.enlarge(each, size, hires.upscaler, network) for each in images],
            stand_in=[Image.new("RGB", size) for _ in range(parameters.images)],
        ),
    ]


def _describe_second(parameters: GenerationParameters, hires: HiresPass) -> GenerationParameters:
    """What the second pass is by itself."""
    changes = {
        "task": Task.IMAGE_TO_IMAGE,
        "width_pixels": hires.width_pixels,
        "height_pixels": hires.height_pixels,
        "steps": hires.steps or parameters.steps,
        "strength": hires.strength,
        "hires": None,
    }
    return parameters.model_copy(update=changes)


def _find_share(parameters: GenerationParameters) -> float:
    """The first pass's share of the work."""
    first = parameters.denoising_steps * parameters.width_pixels * parameters.height_pixels
    width, height = parameters.image_size
    return first / (first + parameters.hires_steps * width * height)
