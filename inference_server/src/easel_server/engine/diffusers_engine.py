"""An engine around any text-to-image pipeline of diffusers, through the call of it and of its kin for other tasks."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import torch

from easel_server.engine.encoding import build_description, encode, library_version
from easel_server.engine.interface import EngineDescription, EngineRequest, GenerationError, OnStep, Step
from easel_server.engine.pipeline_arguments import Row, build_arguments, build_rows, first_rows
from easel_server.engine.previews import draw_previews
from easel_server.engine.schedulers import Schedulers
from easel_server.engine.task_pipelines import TaskPipeline, build_task_pipelines

AfterStep = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]


class DiffusersEngine:
    """A loaded pipeline. One generation at a time: pipelines keep the step they are at in themselves."""

    def __init__(self, pipeline: Any, description: EngineDescription) -> None:
        self._pipelines = build_task_pipelines(pipeline)
        self._schedulers = Schedulers(pipeline.scheduler)
        self._description = replace(description, tasks=tuple(self._pipelines), samplers=self._schedulers.samplers)
        if hasattr(pipeline, "vae") and hasattr(pipeline.vae, "enable_slicing"):
            pipeline.vae.enable_slicing()  # decoding is the peak of memory; image by image it costs no time worth it

    @property
    def description(self) -> EngineDescription:
        """What was loaded, and onto what."""
        return self._description

    def generate(self, requests: Sequence[EngineRequest], on_step: OnStep) -> list[list[bytes]]:
        """See Engine.

        An image is what its request would give alone, up to rounding: in a batch of another size, libraries add up in
        another order. A prompt longer than the text encoder takes (77 tokens for CLIP) is cut there, as diffusers does.
        """
        shared = requests[0].parameters
        self._schedulers.check_steps(shared.steps)
        chosen = self._choose_pipeline(requests)
        arguments = build_arguments(requests) | {"callback_on_step_end": _build_callback(requests, on_step)}
        chosen.pipeline.scheduler = self._schedulers.build(shared.sampler)
        try:
            with torch.inference_mode():
                output = chosen.pipeline(**{name: arguments[name] for name in arguments.keys() & chosen.accepted})
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()  # else fragments of the failed attempt stay reserved
            raise GenerationError(
                f"{sum(request.parameters.images for request in requests)} image(s) of {shared.width_pixels}x"
                f"{shared.height_pixels} pixels don't fit into the memory of {self._description.device}; ask for fewer "
                "or smaller images"
            ) from error
        except ValueError as error:  # how pipelines refuse an argument
            raise GenerationError(f"{type(chosen.pipeline).__name__} refused the request: {error}") from error
        sampler = shared.sampler or type(chosen.pipeline.scheduler).__name__
        drawn = zip(output.images, build_rows(requests), strict=True)
        images = (self._encode(image, row, sampler) for image, row in drawn)
        return [list(islice(images, request.parameters.images)) for request in requests]

    def _choose_pipeline(self, requests: Sequence[EngineRequest]) -> TaskPipeline:
        task = requests[0].parameters.task
        chosen = self._pipelines.get(task)
        if chosen is None:
            raise GenerationError(
                f"{self._description.pipeline} can't do {task}; it can do {', '.join(self._pipelines)}"
            )
        if requests[0].parameters.negative_prompt and "negative_prompt" not in chosen.accepted:
            raise GenerationError(f"{type(chosen.pipeline).__name__} takes no negative_prompt; leave it out")
        return chosen

    def _encode(self, image: Any, row: Row, sampler: str) -> bytes:
        description = build_description(
            row.parameters,
            seed=row.seed,
            model=self._description.model,
            sampler=sampler,
            software={"Diffusers": library_version("diffusers"), "Torch": library_version("torch")},
        )
        return encode(image, row.parameters.image_format, description)


def _build_callback(requests: Sequence[EngineRequest], on_step: OnStep) -> AfterStep:
    steps = requests[0].parameters.steps
    rows = first_rows(requests)

    def after_step(pipeline: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        # Timesteps may be more than steps (PNDM takes one more, Heun twice as many) or fewer (those after a picture).
        done = (index + 1) * steps // pipeline.num_timesteps
        on_step(Step(done, steps, lambda: draw_previews(pipeline, timestep, tensors["latents"], rows)))
        return tensors

    return after_step
