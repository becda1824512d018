"""An engine around any text-to-image pipeline of diffusers, through its call and those of the same family's pipelines.

What the call is given is in ``arguments.py``, how jobs share their steps in ``stepping.py``, how the model comes here
in ``diffusers_loader.py``.
"""

import copy
import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import diffusers
import torch

from easel_server.engine.arguments import build_arguments
from easel_server.engine.diffusers_generation import (
    DiffusersGeneration,
    FailedGeneration,
    ImageFacts,
    Stage,
    StagesRun,
)
from easel_server.engine.images.decoding import guard_decoding
from easel_server.engine.interface import Generation, GenerationError, OnStep, Step
from easel_server.engine.prompt_length import find_prompt_limit, list_cuts
from easel_server.engine.schedulers import Schedulers
from easel_server.engine.speed.preparation import Preparation
from easel_server.engine.stepping.batch_cap import BatchCap, Size
from easel_server.engine.stepping.checkpoints import (
    Checkpoint,
    UnusableCheckpointError,
    build_subject,
    fast_forward,
    read_checkpoint,
)
from easel_server.engine.stepping.memory import tile_where_memory_ends
from easel_server.engine.stepping.stepper import Stepper
from easel_server.generation.models import EngineDescription
from easel_server.generation.parameters import GenerationParameters
from easel_server.generation.tasks import TASKS, Task

DENOISERS: Final = ("unet", "transformer", "controlnet")  # of a pipeline, those that it has

logger = logging.getLogger(__name__)


class TaskPipeline(NamedTuple):
    """A pipeline of diffusers, and the names of the arguments that its call takes."""

    pipeline: Any
    accepted: frozenset[str]


class DiffusersEngine:
    """A loaded pipeline, and its kin for other tasks."""

    def __init__(
        self,
        pipeline: Any,
        description: EngineDescription,
        *,
        max_batch_images: int | None = None,
        preparation: Preparation | None = None,
    ) -> None:
        """``max_batch_images`` is how many images of any size are generated at once; None: what was measured.

        ``preparation`` is of a pipeline for which something is configured.
        """
        self._max_batch_images = max_batch_images
        self._batch_cap: BatchCap | None = None
        self._kinds: dict[Size, tuple[object, int]] = {}  # of each size that came, a row's shape and an image's rows
        self._vae = getattr(pipeline, "vae", None)
        self._vae_dtype = getattr(self._vae, "dtype", None)
        self._pipelines = build_task_pipelines(pipeline)
        self._schedulers = Schedulers(pipeline.scheduler)
        self._preparation = preparation if preparation is not None else Preparation()
        self._device = torch.device(getattr(pipeline, "_execution_device", pipeline.device))
        self._prompt_limit = find_prompt_limit(pipeline)
        self.description = replace(description, tasks=tuple(self._pipelines), samplers=self._schedulers.samplers)
        self._facts = ImageFacts.of(description)
        denoisers = (getattr(pipeline, name, None) for name in DENOISERS)
        self._stepper = Stepper(
            (module for module in denoisers if module is not None), run_exact=self._preparation.eagerly
        )
        if hasattr(pipeline, "vae") and hasattr(pipeline.vae, "decode"):
            guard_decoding(pipeline.vae, pipeline.dtype)
            tile_where_memory_ends(pipeline.vae)
        if hasattr(pipeline, "vae") and hasattr(pipeline.vae, "enable_slicing"):
            pipeline.vae.enable_slicing()  # decoding is the peak of memory; image by image it costs no time worth it

    def max_images(self, width_pixels: int, height_pixels: int) -> int:
        """What is configured, or was measured; less where memory ran out, one where jobs can't share steps."""
        if not self._preparation.shares_steps:
            return 1
        size = Size(width_pixels, height_pixels)
        images = self._max_batch_images or (self._batch_cap.choose(size) if self._batch_cap else 1)
        row_shape, rows = self._kinds.get(size, (None, 1))
        limit = self._stepper.find_row_limit(row_shape)
        return images if limit is None else max(1, min(images, limit // rows))

    def begin(
        self, parameters: GenerationParameters, inputs: Mapping[str, bytes], *, checkpoint: bytes | None = None
    ) -> Generation:
        """As Engine says.

        An image is what its job would give alone, up to rounding: in a batch of another size, libraries add up in
        another order. A prompt longer than the text encoder takes is cut there, as diffusers does: ``list_warnings``.
        """
        subject = build_subject(parameters, self.description)
        saved = self._read_checkpoint(checkpoint, subject)
        try:
            generation = self._begin(parameters, inputs, subject, saved)
            if saved is not None and (generation.error is not None or not generation.is_there):
                logger.warning("a checkpoint led nowhere, so its job begins anew: %s", generation.error)
                generation.stop()
                generation = self._begin(parameters, inputs, subject, None)
        except GenerationError as error:
            return FailedGeneration(error)
        return generation

    def _read_checkpoint(self, data: bytes | None, subject: str) -> Checkpoint | None:
        if data is None:
            return None
        try:
            return read_checkpoint(data, subject, self._device)
        except UnusableCheckpointError as error:
            logger.warning("a checkpoint isn't used, so its job begins anew: %s", error)
            return None

    def _begin(
        self,
        parameters: GenerationParameters,
        inputs: Mapping[str, bytes],
        subject: str,
        saved: Checkpoint | None,
    ) -> DiffusersGeneration:
        """Up to its first call of the denoiser, or to where the checkpoint was taken. Raises GenerationError."""
        self._schedulers.check_steps(parameters.steps)
        chosen, accepted = self._choose_pipeline(parameters)
        arguments = build_arguments(parameters, inputs)
        pipeline = copy.copy(chosen)  # the weights are shared; what a call notes on its pipeline is the job's own
        self._preparation.attach(pipeline)
        pipeline.scheduler = self._schedulers.build(parameters.sampler)
        taken = {name: arguments[name] for name in arguments.keys() & accepted}
        run = StagesRun(parameters.steps, [Stage(pipeline, taken, accepted)], saved)
        generation = DiffusersGeneration(parameters, run, self._facts, subject)
        if not self._preparation.shares_steps:
            generation.call.is_exact = False  # it is alone anyway, and a step cache mustn't see its images one by one
        generation.call.advance()
        self._settle([generation])
        if (pending := generation.call.pending) is not None:
            size = Size(parameters.width_pixels, parameters.height_pixels)
            self._kinds[size] = (pending.row_shape, max(1, pending.rows // parameters.images))
        if saved is not None:
            with torch.inference_mode():
                fast_forward(generation.call, self._stepper, is_there=lambda: run.is_there)
        return generation

    def step(self, generations: Sequence[Generation]) -> None:
        """As Engine says."""
        known = [each for each in generations if isinstance(each, DiffusersGeneration)]
        with torch.inference_mode():
            self._stepper.step([each.call for each in known])
        self._settle(known)

    def _settle(self, generations: Sequence[DiffusersGeneration]) -> None:
        for each in generations:
            each.settle()
        if self._vae is not None and self._vae.dtype != self._vae_dtype:
            # Pipelines decode in float32 where float16 overflows, and set that back only where they succeed.
            self._vae.to(self._vae_dtype)

    def generate(
        self, batch: Sequence[GenerationParameters], inputs: Mapping[str, bytes], on_step: OnStep
    ) -> list[list[bytes]]:
        """All from their beginning to their end. Raises what one of them failed with."""
        generations = [self.begin(parameters, inputs) for parameters in batch]
        done = 0
        try:
            while not all(each.is_done for each in generations):
                self.step(generations)
                _raise_first(generations)
                if (now := min(each.steps_done for each in generations)) > done:
                    done = now
                    on_step(Step(done, batch[0].steps, lambda: [each.build_preview() or b"" for each in generations]))
            _raise_first(generations)
        finally:
            for each in generations:
                each.stop()
        return [each.encode_images() for each in generations]

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


def _raise_first(generations: Sequence[Generation]) -> None:
    for each in generations:
        if each.error is not None:
            raise each.error
