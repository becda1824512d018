"""An engine around any text-to-image pipeline of diffusers, through the pipeline's own call."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from easel_server.engine.encoding import build_description, encode, library_version
from easel_server.engine.interface import EngineDescription, EngineRequest, GenerationError, OnStep, Step
from easel_server.job import GenerationParameters


class DiffusersEngine:
    """A loaded pipeline. One generation at a time: pipelines keep the step they are at in themselves."""

    def __init__(self, pipeline: Any, description: EngineDescription) -> None:
        self._pipeline = pipeline
        self._description = description
        self._accepted = frozenset(inspect.signature(pipeline.__call__).parameters)
        pipeline.set_progress_bar_config(disable=True)
        if hasattr(pipeline, "vae") and hasattr(pipeline.vae, "enable_slicing"):
            pipeline.vae.enable_slicing()  # decoding is the peak of memory; image by image it costs no time worth it

    @property
    def description(self) -> EngineDescription:
        """What was loaded, and onto what."""
        return self._description

    def generate(self, requests: Sequence[EngineRequest], on_step: OnStep) -> list[list[bytes]]:
        """See Engine."""
        return [self._generate_one(request.parameters, on_step) for request in requests]

    def _generate_one(self, parameters: GenerationParameters, on_step: OnStep) -> list[bytes]:
        """Encoded images, ``parameters.images`` of them. Blocks for the whole generation; call it in a thread.

        The noise is drawn on the CPU, from ``seed + i`` for image i: a seed means the same picture on any device, up
        to rounding. A prompt longer than the text encoder takes (77 tokens for CLIP) is cut there, as diffusers does.

        Raises GenerationError for a request that this model can't serve, and whatever ``on_step`` raises.
        """
        self._check_steps(parameters)
        seeds = [parameters.seed + index for index in range(parameters.images)]
        try:
            with torch.inference_mode():
                output = self._pipeline(**self._build_arguments(parameters, seeds, on_step))
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()  # else fragments of the failed attempt stay reserved
            raise GenerationError(
                f"{parameters.images} image(s) of {parameters.width_pixels}x{parameters.height_pixels} pixels don't "
                f"fit into the memory of {self._description.device}; ask for fewer or smaller images"
            ) from error
        except ValueError as error:  # how pipelines refuse an argument
            raise GenerationError(f"{self._description.pipeline} refused the request: {error}") from error
        return [
            encode(image, parameters.image_format, self._describe(parameters, seed))
            for image, seed in zip(output.images, seeds, strict=True)
        ]

    def _describe(self, parameters: GenerationParameters, seed: int) -> str:
        return build_description(
            parameters,
            seed=seed,
            model=self._description.model,
            sampler=type(self._pipeline.scheduler).__name__,
            software={"Diffusers": library_version("diffusers"), "Torch": library_version("torch")},
        )

    def _check_steps(self, parameters: GenerationParameters) -> None:
        # A scheduler picks its steps among those it was trained with; with all of them, some step over the end.
        trained = getattr(self._pipeline.scheduler.config, "num_train_timesteps", None)
        if trained is not None and parameters.steps >= trained:
            raise GenerationError(
                f"{parameters.steps} steps are more than this model's scheduler has: 1 to {trained - 1}"
            )

    def _build_arguments(self, parameters: GenerationParameters, seeds: list[int], on_step: OnStep) -> dict[str, Any]:
        def after_step(pipeline: Any, index: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            # Some schedulers take more timesteps than steps (PNDM one more, Heun twice as many): scaled to the request.
            done = (index + 1) * parameters.steps // max(parameters.steps, pipeline.num_timesteps)
            on_step(Step(done, parameters.steps, list))
            return tensors

        arguments: dict[str, Any] = {
            "prompt": parameters.prompt,
            "width": parameters.width_pixels,
            "height": parameters.height_pixels,
            "num_inference_steps": parameters.steps,
            "guidance_scale": parameters.guidance_scale,
            "num_images_per_prompt": parameters.images,
            "generator": [torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            "callback_on_step_end": after_step,
        }
        if parameters.negative_prompt:
            if "negative_prompt" not in self._accepted:
                raise GenerationError(f"{self._description.pipeline} takes no negative_prompt; leave it out")
            arguments["negative_prompt"] = parameters.negative_prompt
        return {name: value for name, value in arguments.items() if name in self._accepted}
