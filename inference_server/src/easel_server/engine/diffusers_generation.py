"""A job under way in a diffusers pipeline, or in one after another."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

import torch
from easel_contract.gateway_config import Reproducibility

from easel_server.engine.add_ons.adapters import AdapterFacts
from easel_server.engine.add_ons.lora_layers import AdapterSet
from easel_server.engine.device_errors import is_out_of_memory
from easel_server.engine.images.previews import build_preview
from easel_server.engine.images.safety import Safety
from easel_server.engine.images.tiling import CURRENT_USE, VaeUse
from easel_server.engine.interface import GatheringError, GenerationError, NonFiniteError, StopGenerationError
from easel_server.engine.stepping.checkpoints import Checkpoint, copy_notes, find_changes, write_checkpoint
from easel_server.engine.stepping.memory import attempt, free_device_memory
from easel_server.engine.stepping.stepper import SteppedCall
from easel_server.generation.encoding import MAX_RECIPE_BYTES, encode
from easel_server.generation.models import EngineDescription
from easel_server.generation.parameters import GenerationParameters
from easel_server.generation.recipes.infotext import LORA_HASHES, build_metadata, write_hashes
from easel_server.generation.recipes.recipe import describe_maker, describe_scheduler, write_recipe
from easel_server.generation.samplers import split_sampler

EXACT_ADVICE: Final = ", or for Close reproducibility, with which tiles may be made where memory just ran out"
ROUNDING: Final = 1e-6  # a share of whole steps isn't always whole in floating point
SHORT_HASH_CHARACTERS: Final = 10  # of the weights' hash, as AUTOMATIC1111 shows it


@dataclass(frozen=True)
class Stage:
    """A pipeline's call that a job makes. The pipeline is the job's own.

    ``begins_at`` and ``ends_at`` are shares of the job's steps. All but the first are given what the one before left,
    as ``image``, and as ``enlarge`` makes it larger.
    """

    pipeline: Any
    arguments: Mapping[str, Any]
    accepted: frozenset[str]  # names of arguments that the call takes
    begins_at: float = 0.0
    ends_at: float = 1.0
    size: tuple[int, int] = (0, 0)  # of its images in pixels
    enlarge: Callable[[Any], Any] | None = None
    # In place of an image in pixels whose own isn't needed any more: the generator's numbers are drawn all the same
    stand_in: Any = None


@dataclass(frozen=True)
class Progress:
    """What the pipelines' calls have said after their last step."""

    steps_done: int = 0
    stage: int = 0
    index: int = -1  # of the stage's step that is done
    timestep: Any = None
    latents: torch.Tensor | None = None  # [images, …], of the pipeline's dtype and device
    notes: Mapping[str, Any] | None = None  # the scheduler's by then; None: they change with steps that are said only


@dataclass
class StagesRun:
    """The calls of all stages, one after another. Knows nothing of the greenlet that it runs in, which would then
    never be collected: what a paused one refers to isn't seen."""

    steps: int
    stages: Sequence[Stage]
    # The stages with what the job needs beside the model, which the stack holds then; may pause the call
    take: Callable[[ExitStack], Sequence[Stage]] | None = None
    goes_on_from: Checkpoint | None = None
    is_waiting: bool = True  # until it has taken that
    stage: int = 0
    progress: Progress = field(default_factory=Progress)
    vae_use: VaeUse = field(default_factory=VaeUse)

    def __call__(self) -> Any:
        """The images, as the last stage's pipeline gives them."""
        CURRENT_USE.set(self.vae_use)  # of the greenlet that this is called in
        with ExitStack() as holds:
            if self.take is not None:
                self.stages = self.take(holds)
            self.is_waiting = False
            return self._run_stages()

    def _run_stages(self) -> Any:
        images: Any = None
        if self.goes_on_from is not None:
            self.stage = self.goes_on_from.stage
            stand_in = self.stages[self.stage].stand_in
            images = self.goes_on_from.latents if stand_in is None else stand_in
            if self.goes_on_from.index < 0:
                done = int(self.steps * self.stages[self.stage].begins_at + ROUNDING)
                self.progress = Progress(done, self.stage - 1, latents=images)
        for number in range(self.stage, len(self.stages)):
            self.stage = number
            stage = self.stages[number]
            if stage.enlarge is not None and not self._is_within(number):
                images = stage.enlarge(images)
            given = {"image": images} if number else {}
            images = stage.pipeline(**stage.arguments, **given, **self._build_callback(stage)).images
        return images

    def _is_within(self, number: int) -> bool:
        """Whether it goes on from some step of this stage."""
        start = self.goes_on_from
        return start is not None and start.stage == number and start.index >= 0

    @property
    def is_there(self) -> bool:
        """Whether it has come to where the checkpoint was taken."""
        start = self.goes_on_from
        return (
            start is None or start.index < 0 or (self.progress.stage, self.progress.index) == (start.stage, start.index)
        )

    @property
    def pipeline(self) -> Any:
        """Of the stage that runs."""
        return self.stages[self.stage].pipeline

    def _build_callback(self, stage: Stage) -> dict[str, Any]:
        if "callback_on_step_end" in stage.accepted:
            return {"callback_on_step_end": self._note_step}
        if "callback" in stage.accepted:  # of pipelines that have nothing newer
            return {"callback": self._note_old_step, "callback_steps": 1}
        return {}

    def _note_old_step(self, index: int, timestep: Any, latents: torch.Tensor) -> None:
        kept = self._note_step(self.pipeline, index, timestep, {"latents": latents})["latents"]
        if kept is not latents:
            latents.copy_(kept)
        # A sampler may evaluate a step twice: this is called after the second time only, and the first changes notes.
        self.progress = replace(self.progress, notes=copy_notes(self.pipeline.scheduler))

    def _note_step(self, pipeline: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        start = self.goes_on_from
        if start is not None and (start.stage, start.index) == (self.stage, index):
            vars(pipeline.scheduler).update(start.notes)
            tensors = {**tensors, "latents": start.latents}
        stage = self.stages[self.stage]
        # Timesteps may be more than steps (PNDM takes one more, Heun twice as many) or fewer (those after an image).
        timesteps = getattr(pipeline, "num_timesteps", 0) or len(pipeline.scheduler.timesteps)
        share = stage.begins_at + (stage.ends_at - stage.begins_at) * (index + 1) / timesteps
        steps_done = int(self.steps * share + ROUNDING)
        self.progress = Progress(steps_done, self.stage, index, timestep, tensors["latents"])
        return tensors


@dataclass(frozen=True)
class ImageFacts:
    """What an engine's images say of it."""

    texts: Mapping[str, str]  # in AUTOMATIC1111's text, by its names
    maker: dict[str, Any]  # in the recipe

    @classmethod
    def of(cls, description: EngineDescription) -> Self:
        """Of what an engine says that it is."""
        versions = description.versions
        texts = {
            "Model": description.model,
            "Model hash": description.resolved_revision.removeprefix("sha256:")[:SHORT_HASH_CHARACTERS],
            "VAE hash": description.vae.removeprefix("sha256:")[:SHORT_HASH_CHARACTERS],
            "VAE": description.vae_name if description.vae else "",
            "Version": f"easel {versions['easel']}",
            "Diffusers": versions["diffusers"],
            "Torch": versions["torch"],
        }
        return cls({name: text for name, text in texts.items() if text}, describe_maker(description))


class DiffusersGeneration:
    """One job; made by ``DiffusersEngine.begin``."""

    def __init__(
        self,
        parameters: GenerationParameters,
        run: StagesRun,
        facts: ImageFacts,
        subject: str,
        safety: Safety,
        additions: Mapping[torch.nn.Module, AdapterSet],
        adapter_facts: Mapping[str, AdapterFacts],
    ) -> None:
        """``subject`` is that of its checkpoints; the last two are of its adapters, once the run has taken them."""
        self._adapter_facts = adapter_facts
        self._parameters = parameters
        self._run = run
        self._facts = facts
        self._subject = subject
        self._begun_stage = -1
        self._notes_at_begin: dict[str, Any] = {}  # the scheduler's, before the first step of the stage
        self._safety = safety
        self._watched = safety.watch(run)
        run.vae_use.is_exact = is_exact = parameters.reproducibility is Reproducibility.EXACT
        self.call = SteppedCall(
            self._watched,
            images=parameters.images,
            is_exact=is_exact,
            additions=additions,
        )

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels of what it works on."""
        return self._run.stages[self._run.stage].size

    def settle(self) -> None:
        """To be called when its call has paused, each time."""
        if self._begun_stage != self._run.stage and self.call.pending is not None:
            self._begun_stage = self._run.stage
            self._notes_at_begin = copy_notes(self._run.pipeline.scheduler)

    @property
    def is_done(self) -> bool:
        """As Generation says."""
        return self.call.is_done

    @property
    def is_there(self) -> bool:
        """Whether it is where its checkpoint was taken, or has none."""
        return self._run.is_there

    @property
    def error(self) -> Exception | None:
        """As Generation says."""
        error = self.call.error
        if isinstance(error, NonFiniteError):
            return NonFiniteError(f"{error}{_describe_add_ons(self._parameters)}")
        if error is None or isinstance(error, StopGenerationError | GenerationError | GatheringError):
            return error
        return _explain(error, self._parameters, self._run.pipeline)

    @property
    def steps_done(self) -> int:
        """As Generation says."""
        return self._run.progress.steps_done

    @property
    def own_seconds(self) -> float:
        """As Generation says."""
        return self.call.own_seconds

    def build_preview(self) -> bytes | None:
        """As Generation says. None as well if it doesn't fit into memory: the image itself may."""
        progress = self._run.progress
        latents, timestep = progress.latents, progress.timestep
        if latents is None:
            return None
        stage = self._run.stages[progress.stage]
        with torch.inference_mode():
            preview, error = attempt(lambda: build_preview(stage.pipeline, timestep, latents, stage.size))
        if error is None:
            return self._safety.hide(preview)
        if not is_out_of_memory(error):
            raise error
        free_device_memory()
        return None

    @property
    def warnings(self) -> tuple[str, ...]:
        """As Generation says."""
        return (*self._watched.warnings, *self._run.vae_use.warnings)

    def checkpoint(self) -> bytes | None:
        """As Generation says: after its first step, until its last."""
        run, progress = self._run, self._run.progress
        if self.is_done or progress.latents is None:
            return None
        if progress.stage == run.stage:
            notes = copy_notes(run.pipeline.scheduler) if progress.notes is None else progress.notes
            changes = find_changes(self._notes_at_begin, notes)
            return write_checkpoint(Checkpoint(run.stage, progress.index, progress.latents, changes), self._subject)
        # Another has begun. One that is given pixels decodes them anew, behind the last step of the one before.
        begins_with_latents = run.stages[run.stage].stand_in is None
        stage, index = (run.stage, -1) if begins_with_latents else (progress.stage, progress.index)
        return write_checkpoint(Checkpoint(stage, index, progress.latents, {}), self._subject)

    def stop(self) -> None:
        """As Generation says."""
        self.call.stop()

    def encode_images(self) -> list[bytes]:
        """As Generation says."""
        parameters = self._parameters
        return [
            encode(
                image,
                parameters.image_format,
                self._describe(index),
                self._write_recipe(index),
                quality_percent=parameters.quality_percent,
            )
            for index, image in enumerate(self.call.result)
        ]

    def _describe(self, index: int) -> str:
        parameters = self._parameters
        sampler, schedule = split_sampler(parameters.sampler or type(self._scheduler).__name__)
        said = {"Sampler": sampler, "Schedule type": schedule, "Seed": parameters.seed + index}
        if self._adapter_facts:
            said[LORA_HASHES] = write_hashes({name: each.tensors_hash for name, each in self._adapter_facts.items()})
        return build_metadata(parameters, {**said, **self._facts.texts})

    def _write_recipe(self, index: int) -> str:
        return write_recipe(
            self._parameters,
            index,
            maker=self._facts.maker
            | {"adapters": [{"name": name, "digest": each.digest} for name, each in self._adapter_facts.items()]}
            | ({"vaeTiles": self._run.vae_use.tiles} if self._run.vae_use.tiles else {}),
            scheduler=describe_scheduler(type(self._scheduler).__name__, self._scheduler.config),
            max_bytes=MAX_RECIPE_BYTES.get(self._parameters.image_format),
        )

    @property
    def _scheduler(self) -> Any:
        return self._run.stages[0].pipeline.scheduler


class FailedGeneration:
    """A job that can't be begun."""

    is_done = True
    steps_done = 0
    own_seconds = 0.0
    warnings: tuple[str, ...] = ()

    def __init__(self, error: Exception) -> None:
        self.error: Exception | None = error

    def build_preview(self) -> bytes | None:
        """There is none."""
        return None

    def checkpoint(self) -> bytes | None:
        """There is none."""
        return None

    def stop(self) -> None:
        """It has ended already."""

    def encode_images(self) -> list[bytes]:
        """There are none."""
        return []


def _describe_add_ons(parameters: GenerationParameters) -> str:
    """What may be to blame beside the model, as the end of a sentence."""
    used = [f"adapter {use.name} ({use.weight:g})" for use in parameters.adapters]
    used += [f"ControlNet {use.name} ({use.weight:g})" for use in parameters.controls]
    return f"; or give less weight to what was used beside it, or none: {', '.join(used)}" if used else ""


def _explain(error: Exception, parameters: GenerationParameters, pipeline: Any) -> Exception:
    if is_out_of_memory(error):
        return GenerationError(
            f"{parameters.images} image(s) of {'x'.join(map(str, parameters.image_size))} pixels don't fit "
            f"into the memory of {pipeline.device}, not even row by row and tile by tile; ask for fewer or smaller ones"
            + (EXACT_ADVICE if parameters.reproducibility is Reproducibility.EXACT else "")
        )
    if isinstance(error, ValueError):  # how pipelines refuse an argument
        return GenerationError(f"{type(pipeline).__name__} refused the request: {error}")
    return error
