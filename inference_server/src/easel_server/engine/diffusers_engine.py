"""An engine around any text-to-image pipeline of diffusers, through its call and those of the same family's pipelines.

What the call is given is in ``arguments.py``, how the model comes here in ``diffusers_loader.py``.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, islice
from typing import Any, NamedTuple

import diffusers
import torch

from easel_server.engine.arguments import build_arguments, list_seeds
from easel_server.engine.decoding import guard_decoding
from easel_server.engine.interface import GenerationError, OnStep, Step
from easel_server.engine.previews import decode_previews
from easel_server.engine.prompt_length import find_prompt_limit, list_cuts
from easel_server.engine.schedulers import Schedulers
from easel_server.generation.encoding import encode
from easel_server.generation.models import EngineDescription
from easel_server.generation.parameters import GenerationParameters, build_metadata
from easel_server.generation.tasks import TASKS, Task

AfterStep = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]


class TaskPipeline(NamedTuple):
    """A pipeline of diffusers, and the names of the arguments that its call takes."""

    pipeline: Any
    accepted: frozenset[str]


class DiffusersEngine:
    """A loaded pipeline. One generation at a time: pipelines keep the step they are at in themselves."""

    def __init__(self, pipeline: Any, description: EngineDescription) -> None:
        self._pipelines = build_task_pipelines(pipeline)
        self._schedulers = Schedulers(pipeline.scheduler)
        self._prompt_limit = find_prompt_limit(pipeline)
        self.description = replace(description, tasks=tuple(self._pipelines), samplers=self._schedulers.samplers)
        versions = description.versions
        self._facts = {
            "Model": description.model,
            "Version": f"easel {versions['easel']}",
            "Diffusers": versions["diffusers"],
            "Torch": versions["torch"],
        }
        if hasattr(pipeline, "vae") and hasattr(pipeline.vae, "decode"):
            guard_decoding(pipeline.vae, pipeline.dtype)
        if hasattr(pipeline, "vae") and hasattr(pipeline.vae, "enable_slicing"):
            pipeline.vae.enable_slicing()  # decoding is the peak of memory; image by image it costs no time worth it

    def generate(
        self, batch: Sequence[GenerationParameters], inputs: Mapping[str, bytes], on_step: OnStep
    ) -> list[list[bytes]]:
        """Images as Engine promises them.

        An image is what its job would give alone, up to rounding: in a batch of another size, libraries add up in
        another order. A prompt longer than the text encoder takes is cut there, as diffusers does: ``list_warnings``.
        """
        shared = batch[0]
        self._schedulers.check_steps(shared.steps)
        pipeline, accepted = self._choose_pipeline(shared)
        arguments = build_arguments(batch, inputs)
        arguments["callback_on_step_end"] = _build_callback(batch, on_step)
        pipeline.scheduler = self._schedulers.build(shared.sampler)
        try:
            with torch.inference_mode():
                output = pipeline(**{name: arguments[name] for name in arguments.keys() & accepted})
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()  # else fragments of the failed attempt stay reserved
            raise GenerationError(
                f"{sum(parameters.images for parameters in batch)} image(s) of {shared.width_pixels}x"
                f"{shared.height_pixels} pixels don't fit into the memory of {self.description.device}; ask for fewer "
                "or smaller images"
            ) from error
        except ValueError as error:  # how pipelines refuse an argument
            raise GenerationError(f"{type(pipeline).__name__} refused the request: {error}") from error
        images = zip(output.images, list_seeds(batch), strict=True)
        sampler = shared.sampler or type(pipeline.scheduler).__name__
        return [
            [self._encode(image, parameters, seed, sampler) for image, seed in islice(images, parameters.images)]
            for parameters in batch
        ]

    def list_warnings(self, parameters: GenerationParameters) -> tuple[str, ...]:
        """What was left out of the prompts."""
        return list_cuts(self._prompt_limit, parameters)

    def _choose_pipeline(self, shared: GenerationParameters) -> TaskPipeline:
        chosen = self._pipelines.get(shared.task)
        if chosen is None:
            raise GenerationError(
                f"{self.description.pipeline} can't do {shared.task}; it can do {', '.join(self._pipelines)}"
            )
        if shared.negative_prompt and "negative_prompt" not in chosen.accepted:
            raise GenerationError(f"{type(chosen.pipeline).__name__} takes no negative_prompt; leave it out")
        return chosen

    def _encode(self, image: Any, parameters: GenerationParameters, seed: int, sampler: str) -> bytes:
        text = build_metadata(parameters, {"Sampler": sampler, "Seed": seed, **self._facts})
        return encode(image, parameters.image_format, text, quality_percent=parameters.quality_percent)


def build_task_pipelines(pipeline: Any) -> dict[Task, TaskPipeline]:
    """One loaded model as a pipeline for each task of which diffusers has one of the same family.

    They share the weights: nothing is loaded twice.
    """
    pipelines = {}
    for task, definition in TASKS.items():
        try:
            family = getattr(diffusers, definition.pipeline) if definition.pipeline else None
            chosen = family.from_pipe(pipeline) if family else pipeline
        except ValueError:  # how diffusers says that there is none
            continue
        chosen.set_progress_bar_config(disable=True)
        pipelines[task] = TaskPipeline(chosen, frozenset(inspect.signature(chosen.__call__).parameters))
    return pipelines


def _build_callback(batch: Sequence[GenerationParameters], on_step: OnStep) -> AfterStep:
    steps = batch[0].steps
    first_rows = [0, *accumulate(parameters.images for parameters in batch[:-1])]

    def after_step(pipeline: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        # Timesteps may be more than steps (PNDM takes one more, Heun twice as many) or fewer (those after an image).
        done = (index + 1) * steps // pipeline.num_timesteps
        on_step(Step(done, steps, lambda: decode_previews(pipeline, timestep, tensors["latents"], first_rows)))
        return tensors

    return after_step
