"""An engine around any text-to-image pipeline of diffusers, through its call and those of the same family's pipelines.

What the call is given is in ``arguments.py``, how jobs share their steps in ``stepping.py``, how the model comes here
in ``diffusers_loader.py``.
"""

import copy
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, Final

import torch
from easel_contract.add_ons import AddOnConfig
from easel_contract.server_config import AddOnMemory, SchedulerConfig
from PIL import Image

from easel_server.engine.add_ons.adapters import AdapterFacts, Adapters
from easel_server.engine.add_ons.control_nets import ControlNets
from easel_server.engine.add_ons.enlarging import EnlargingGeneration
from easel_server.engine.add_ons.files import AddOnFiles
from easel_server.engine.add_ons.hires import add_second_pass
from easel_server.engine.add_ons.lora_layers import AdapterSet
from easel_server.engine.add_ons.residency import Residency, choose_budgets
from easel_server.engine.add_ons.upscalers import Upscalers
from easel_server.engine.arguments import build_arguments, list_seeds, list_unused
from easel_server.engine.diffusers_generation import (
    DiffusersGeneration,
    FailedGeneration,
    ImageFacts,
    Stage,
    StagesRun,
)
from easel_server.engine.images.decoding import guard_decoding
from easel_server.engine.images.safety import Safety
from easel_server.engine.images.tiling import find_budget, tile_by_size
from easel_server.engine.interface import GatheredAddOn, GatheringError, Generation, GenerationError, build_trial
from easel_server.engine.model_files.hub import Hub
from easel_server.engine.pipelines import (
    TaskPipeline,
    build_task_pipelines,
    check_pipeline,
    describe_files,
    find_arguments,
)
from easel_server.engine.prompts.limits import find_prompt_limits
from easel_server.engine.schedulers.schedulers import Schedulers
from easel_server.engine.speed.preparation import Preparation
from easel_server.engine.speed.prompt_cache import PromptCache
from easel_server.engine.speed.weights import count_weights_on
from easel_server.engine.stepping.batch_cap import (
    RUNS,
    BatchCap,
    Size,
    choose_cap,
    measure,
    name_profile,
    read_profile,
    write_profile,
)
from easel_server.engine.stepping.checkpoints import (
    Checkpoint,
    UnusableCheckpointError,
    build_subject,
    fast_forward,
    read_checkpoint,
)
from easel_server.engine.stepping.stepper import Pace, Stepper
from easel_server.generation.add_ons import ControlUse, Feature
from easel_server.generation.families import find_family
from easel_server.generation.models import EngineDescription
from easel_server.generation.parameters import GenerationParameters
from easel_server.generation.tasks import Task

DENOISERS: Final = ("unet", "transformer", "controlnet")  # of a pipeline, those that it has

logger = logging.getLogger(__name__)


class Refiner:
    """A pipeline that takes over the last steps, as Stable Diffusion XL's does.

    https://huggingface.co/docs/diffusers/using-diffusers/sdxl#base-to-refiner-model: the base model hands over its
    latents with a fifth of the steps to go.
    """

    begins_at: Final = 0.8  # of the steps

    def __init__(self, pipeline: Any) -> None:
        pipeline.set_progress_bar_config(disable=True)
        self._pipeline = pipeline
        self._accepted = find_arguments(pipeline)
        self._schedulers = Schedulers(pipeline.scheduler, find_family(type(pipeline).__name__))
        self._prompts = PromptCache()  # its own: other text encoders

    def takes_over(self, parameters: GenerationParameters) -> bool:
        """Of what begins with a text, where there is a whole step for it."""
        return parameters.task is Task.TEXT_TO_IMAGE and parameters.steps * (1 - self.begins_at) >= 1 - 1e-6

    def add_stage(self, base: Stage, parameters: GenerationParameters) -> list[Stage]:
        """The base's stage, which ends early then, and this one's. Raises GenerationError for a sampler."""
        pipeline = copy.copy(self._pipeline)
        self._prompts.attach(pipeline)
        pipeline.scheduler = self._schedulers.build(parameters.sampler, list_seeds(parameters))
        taken = {name: base.arguments[name] for name in base.arguments.keys() & self._accepted}
        until = {"denoising_end": self.begins_at, "output_type": "latent"}
        return [
            replace(base, arguments={**base.arguments, **until}, ends_at=self.begins_at),
            Stage(
                pipeline,
                {**taken, "denoising_start": self.begins_at},
                self._accepted,
                begins_at=self.begins_at,
                size=base.size,
            ),
        ]


class DiffusersEngine:
    """A loaded pipeline, and its kin for other tasks."""

    def __init__(
        self,
        pipeline: Any,
        description: EngineDescription,
        *,
        refiner: Any = None,
        max_batch_images: int | None = None,
        safety: Safety | None = None,
        preparation: Preparation | None = None,
        residency: Residency | None = None,
        add_on_files: AddOnFiles | None = None,
        scheduler: SchedulerConfig | None = None,
    ) -> None:
        """``refiner`` is a pipeline for image to image that takes over the last steps of what begins with a text; it
        shares the autoencoder. ``max_batch_images`` is how many images of any size are generated at once; None: what
        was measured. ``safety`` is of the pipeline's checker, which was taken out of it (``take_safety``).
        ``preparation`` is of a pipeline for which something is configured. ``residency`` keeps add-ons,
        and ``add_on_files`` brings them here. ``scheduler`` is how the service has the model's own.

        Raises ModelLoadError for a pipeline that can't keep an engine's promises.
        """
        self._add_on_files = add_on_files or AddOnFiles(None, Hub(None))
        check_pipeline(pipeline, description.model)
        files = describe_files(pipeline)
        self.family = description.defaults.traits if description.defaults.family else find_family(files.pipeline, files)
        self._refiner = None if refiner is None else Refiner(refiner)
        self._safety = safety or Safety(None)
        self._max_batch_images = max_batch_images
        self._batch_cap: BatchCap | None = None
        self._memory_caps: dict[Size, int] = {}  # of sizes at which memory ran out
        self._vae = getattr(pipeline, "vae", None)
        self._vae_dtype = getattr(self._vae, "dtype", None)
        self._pipelines = build_task_pipelines(pipeline, self.family, scheduler)
        self._preparation = preparation if preparation is not None else Preparation()
        self._device = torch.device(getattr(pipeline, "_execution_device", pipeline.device))
        self._pace = Pace(self._device)
        self._residency = (
            residency
            if residency is not None
            else Residency(self._device, *choose_budgets(self._device, AddOnMemory()))
        )
        locate = self._add_on_files.find
        self._adapters = Adapters(pipeline, self._residency, locate)
        self._prompt_limits = find_prompt_limits(pipeline)
        samplers = self._pipelines[Task.TEXT_TO_IMAGE].schedulers.samplers
        features = [Feature.UPSCALE, *([Feature.HIRES] if Task.IMAGE_TO_IMAGE in self._pipelines else [])]
        features += [Feature.ADAPTERS] if self._adapters.is_possible else []
        self.description = replace(
            description,
            tasks=(*self._pipelines, Task.UPSCALE),
            samplers=samplers,
            features=(*description.features, *self._prompt_limits.features, *features),
        )
        self._facts = ImageFacts.of(description)
        denoisers = [getattr(each, name, None) for each in (pipeline, refiner) for name in DENOISERS]
        self._stepper = Stepper(
            (module for module in denoisers if module is not None),
            run_eagerly=self._preparation.eagerly,
            open_layers=self._preparation.opened,
        )
        self._control_nets = ControlNets(self._pipelines, self._stepper, self._residency, locate)
        if self._control_nets.tasks and self._preparation.shares_steps:  # a step cache knows nothing of them
            known = self.description.features
            self.description = replace(self.description, features=(*known, Feature.CONTROL_NETS))
        self._upscalers = Upscalers(self._device, self._residency, locate)
        if hasattr(pipeline, "vae") and hasattr(pipeline.vae, "decode"):
            tile_by_size(pipeline.vae, find_budget(self._device, count_weights_on(self._device, (pipeline, refiner))))
            guard_decoding(pipeline.vae, pipeline.dtype)  # outermost: what it repeats in float32 may not fit at once
        if hasattr(pipeline, "vae") and hasattr(pipeline.vae, "enable_slicing"):
            pipeline.vae.enable_slicing()  # decoding is the peak of memory; image by image it costs no time worth it

    def max_images(self, width_pixels: int, height_pixels: int) -> int:
        """What is configured, or was measured; less where memory ran out, one where jobs can't share steps."""
        if not self._preparation.shares_steps:
            return 1
        size = Size(width_pixels, height_pixels)
        images = self._max_batch_images or (self._batch_cap.choose(size) if self._batch_cap else 1)
        return min(images, self._memory_caps.get(size, images))

    def measure_batch_cap(self, directory: Path | None) -> None:
        """Find out how many images are generated best at once, at the model's own size: once, then it is read.

        ``directory`` is where that is kept; None: nowhere. Does nothing if a number is configured, or nothing is
        shared. Blocks for some MEASURING_SECONDS at the most.
        """
        if self._max_batch_images is not None or not self._preparation.shares_steps:
            return
        trial = build_trial(self.description.defaults)
        size = Size(trial.width_pixels, trial.height_pixels)
        file = None if directory is None else directory / name_profile(self.description, self._name_device(), size)
        measured = {} if file is None else read_profile(file)
        if not measured:
            measured = measure(lambda images: self._time_step(trial, images))
            if file is not None and measured:
                write_profile(file, measured)
        self._batch_cap = BatchCap(size, choose_cap(measured))
        seconds = ", ".join(f"{images}: {taken:.3g} s" for images, taken in measured.items())
        logger.info("a step takes, by images: %s; so %d are generated at once", seconds, self._batch_cap.images)

    def _name_device(self) -> str:
        index = self._device.index or 0
        return torch.cuda.get_device_name(index) if self._device.type == "cuda" else self._device.type

    def _time_step(self, trial: GenerationParameters, images: int) -> float:
        """Seconds of a step of so many jobs, the second one; infinity if they don't fit into memory or fail."""
        jobs = [trial.model_copy(update={"seed": seed, "steps": RUNS + 1}) for seed in range(images)]
        generations = [self.begin(job, {}) for job in jobs]
        taken = 0.0
        for _ in range(RUNS):
            began = self._now_seconds()
            self.step(generations)
            taken = self._now_seconds() - began
        is_whole = all(each.error is None for each in generations)
        for each in generations:
            each.stop()
        return (
            taken if is_whole and self._memory_caps.get(Size(trial.width_pixels, trial.height_pixels)) is None else inf
        )

    def _now_seconds(self) -> float:
        if self._device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter()

    def bring(self, add_on: AddOnConfig) -> GatheredAddOn:
        """As Engine says."""
        return self._add_on_files.bring(add_on)

    def gather(self, parameters: GenerationParameters, add_ons: Sequence[AddOnConfig]) -> tuple[GatheredAddOn, ...]:
        """As Engine says."""
        gathered = self._add_on_files.gather(add_ons)
        keys = {config.key for config in add_ons}
        self._adapters.prefetch([use for use in parameters.adapters if use.key in keys], add_ons)
        self._control_nets.prefetch(parameters.controls, add_ons)
        enlarging = {key for each in (parameters.hires, parameters.upscale) if each is not None for key in each.keys}
        for config in add_ons:
            if config.key in enlarging:
                self._upscalers.prefetch(config)
        return gathered

    def begin(
        self,
        parameters: GenerationParameters,
        inputs: Mapping[str, bytes],
        *,
        checkpoint: bytes | None = None,
        add_ons: Sequence[AddOnConfig] = (),
    ) -> Generation:
        """As Engine says.

        An image is what its job would give alone, up to rounding: in a batch of another size, libraries add up in
        another order. A prompt longer than the text encoders take is cut there: ``list_warnings``.
        """
        if parameters.task is Task.UPSCALE:
            return self._begin_enlarging(parameters, inputs, add_ons)
        try:
            contents = {config.key: self._add_on_files.find(config).digest for config in add_ons}
            subject = build_subject(parameters, self.description, contents)
            saved = self._read_checkpoint(checkpoint, subject)
            generation = self._begin(parameters, inputs, add_ons, subject, saved)
            if saved is not None and (generation.error is not None or not generation.is_there):
                logger.warning("a checkpoint led nowhere, so its job begins anew: %s", generation.error)
                generation.stop()
                generation = self._begin(parameters, inputs, add_ons, subject, None)
        except (GenerationError, GatheringError) as error:  # an add-on's file may be gone by now
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
        add_ons: Sequence[AddOnConfig],
        subject: str,
        saved: Checkpoint | None,
    ) -> DiffusersGeneration:
        """Up to its first call of the denoiser, or to where the checkpoint was taken. Raises GenerationError."""
        chosen = self._choose_pipeline(parameters.task)
        chosen.schedulers.check_steps(parameters.steps)
        arguments = build_arguments(parameters, inputs, self.family, chosen.accepted)
        arguments |= self._prompt_limits.choose_length(parameters, self.family)
        pipeline = copy.copy(chosen.pipeline)  # weights are shared; what a call notes on its pipeline is the job's own
        pipeline.scheduler = chosen.schedulers.build(parameters.sampler, list_seeds(parameters))
        size = parameters.width_pixels, parameters.height_pixels
        stages = [Stage(pipeline, arguments, chosen.accepted, size=size)]
        if self._refiner is not None and self._refiner.takes_over(parameters):
            stages = self._refiner.add_stage(stages[0], parameters)
        additions: dict[torch.nn.Module, AdapterSet] = {}
        adapter_facts: dict[str, AdapterFacts] = {}
        put = partial(self._put_add_ons, stages, parameters, inputs, add_ons, additions, adapter_facts, {})
        run = StagesRun(parameters.steps, stages, partial(self._residency.take, put), saved)
        generation = DiffusersGeneration(parameters, run, self._facts, subject, self._safety, additions, adapter_facts)
        if not self._preparation.shares_steps:
            generation.call.is_exact = False  # it is alone anyway, and a step cache mustn't see its images one by one
        generation.call.advance()
        self._settle([generation])
        if saved is not None:
            fast_forward(generation.call, self._stepper, is_there=lambda: run.is_there or run.is_waiting)
        return generation

    def _begin_enlarging(
        self, parameters: GenerationParameters, inputs: Mapping[str, bytes], add_ons: Sequence[AddOnConfig]
    ) -> Generation:
        generation = EnlargingGeneration(parameters, inputs, add_ons, self._upscalers, self._facts, self._safety)
        generation.call.advance()
        generation.settle()
        return generation

    def _put_add_ons(
        self,
        stages: Sequence[Stage],
        parameters: GenerationParameters,
        inputs: Mapping[str, bytes],
        add_ons: Sequence[AddOnConfig],
        additions: dict[torch.nn.Module, AdapterSet],
        adapter_facts: dict[str, AdapterFacts],
        made: dict[ControlUse, Image.Image],
        holds: ExitStack,
    ) -> Sequence[Stage]:
        """The stages with what a job needs beside the model, and what its adapters add and are in the two dicts.

        Adapters are of the model's own pipelines, whatever ControlNets or the second pass make of these, and not of
        its refiner's. Raises GenerationError, and AddOnsBusyError where there is no room now.
        """
        first, *others = stages
        control = partial(
            self._control_nets.put_into, parameters=parameters, inputs=inputs, configs=add_ons, holds=holds, made=made
        )
        first = control(first, parameters.task, parameters.first_controls)
        whole, own = [first, *others], [first.pipeline]
        if parameters.hires is not None:
            whole = add_second_pass(
                whole,
                parameters,
                self._choose_pipeline(Task.IMAGE_TO_IMAGE),
                self.family,
                upscalers=self._upscalers,
                network=self._upscalers.hold(parameters.hires.key, add_ons, holds),
            )
            whole[-1] = control(whole[-1], Task.IMAGE_TO_IMAGE, parameters.second_controls)
            own.append(whole[-1].pipeline)
        adapters = self._adapters.take(parameters.adapters, add_ons, holds)
        additions |= adapters.denoisers
        adapter_facts |= adapters.facts
        for pipeline in own:
            self._preparation.attach(pipeline, changes=adapters.prompt_key, changing=adapters.encoding)
        return whole

    def step(self, generations: Sequence[Generation]) -> None:
        """As Engine says."""
        known = [each for each in generations if isinstance(each, DiffusersGeneration | EnlargingGeneration)]
        kinds = [(each.size, each.call.pending, each.call.images) for each in known if each.call.pending is not None]
        self._stepper.step([each.call for each in known])
        self._pace.keep()
        self._settle(known)
        for size, pending, images in kinds:
            limit = self._stepper.find_row_limit(pending.row_shape)
            if limit is not None:
                fitting = max(1, limit // max(1, pending.rows // images))
                self._memory_caps[Size(*size)] = min(fitting, self._memory_caps.get(Size(*size), fitting))

    def _settle(self, generations: Sequence[DiffusersGeneration | EnlargingGeneration]) -> None:
        for each in generations:
            each.settle()
        # Pipelines decode in float32 where float16 overflows, and set that back only where they succeed. Asked where
        # one has ended only: to say its dtype, a model looks through all its modules; nothing else here takes as long.
        if self._vae is not None and any(each.is_done for each in generations) and self._vae.dtype != self._vae_dtype:
            self._vae.to(self._vae_dtype)

    def list_warnings(self, parameters: GenerationParameters) -> tuple[str, ...]:
        """What has no effect with this model, and what was left out of the prompts or taken as words."""
        return (*list_unused(parameters, self.family), *self._prompt_limits.list_warnings(parameters, self.family))

    def _choose_pipeline(self, task: Task) -> TaskPipeline:
        chosen = self._pipelines.get(task)
        if chosen is None:
            raise GenerationError(
                f"{self.description.pipeline} can't do {task}; it can do {', '.join(self._pipelines)}"
            )
        return chosen
