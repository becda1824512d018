"""A job under way in a diffusers pipeline."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import torch

from easel_server.engine.images.previews import build_preview
from easel_server.engine.interface import GenerationError, StopGenerationError
from easel_server.engine.stepping.stepper import SteppedCall
from easel_server.generation.encoding import MAX_RECIPE_BYTES, encode
from easel_server.generation.infotext import build_metadata
from easel_server.generation.models import EngineDescription
from easel_server.generation.parameters import GenerationParameters
from easel_server.generation.recipe import describe_maker, describe_scheduler, write_recipe
from easel_server.generation.samplers import split_sampler

SHORT_HASH_CHARACTERS: Final = 10  # of the weights' hash, as AUTOMATIC1111 shows it


@dataclass
class Progress:
    """What a pipeline's call has told after its last step."""

    steps_done: int = 0
    timestep: Any = None
    latents: torch.Tensor | None = None  # [images, …], of the pipeline's dtype and device


@dataclass(frozen=True)
class ImageFacts:
    """What an engine's images say of it."""

    texts: Mapping[str, str]  # in AUTOMATIC1111's text, by its names
    maker: Mapping[str, Any]  # in the recipe

    @classmethod
    def of(cls, description: EngineDescription) -> Self:
        """Of what an engine says that it is."""
        versions = description.versions
        texts = {
            "Model": description.model,
            "Model hash": description.resolved_revision.removeprefix("sha256:")[:SHORT_HASH_CHARACTERS],
            "Version": f"easel {versions['easel']}",
            "Diffusers": versions["diffusers"],
            "Torch": versions["torch"],
        }
        return cls({name: text for name, text in texts.items() if text}, describe_maker(description))


class DiffusersGeneration:
    """One job; made by ``DiffusersEngine.begin``."""

    def __init__(
        self, parameters: GenerationParameters, pipeline: Any, arguments: Mapping[str, Any], facts: ImageFacts
    ) -> None:
        """``pipeline`` is this job's own, ``arguments`` are its call's."""
        self._parameters = parameters
        self._pipeline = pipeline
        self._facts = facts
        self._progress = Progress()
        self.call = SteppedCall(lambda: pipeline(**arguments, callback_on_step_end=self._note_step).images)

    @property
    def is_done(self) -> bool:
        """As Generation says."""
        return self.call.is_done

    @property
    def error(self) -> Exception | None:
        """As Generation says."""
        error = self.call.error
        if error is None or isinstance(error, StopGenerationError | GenerationError):
            return error
        return _explain(error, self._parameters, self._pipeline)

    @property
    def steps_done(self) -> int:
        """As Generation says."""
        return self._progress.steps_done

    @property
    def own_seconds(self) -> float:
        """As Generation says."""
        return self.call.own_seconds

    def _note_step(self, pipeline: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        # Timesteps may be more than steps (PNDM takes one more, Heun twice as many) or fewer (those after an image).
        self._progress = Progress(
            (index + 1) * self._parameters.steps // pipeline.num_timesteps, timestep, tensors["latents"]
        )
        return tensors

    def build_preview(self) -> bytes | None:
        """As Generation says."""
        progress, size = self._progress, (self._parameters.width_pixels, self._parameters.height_pixels)
        if progress.latents is None:
            return None
        with torch.inference_mode():
            return build_preview(self._pipeline, progress.timestep, progress.latents, size)

    def checkpoint(self) -> bytes | None:
        """None, for now."""
        return None

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
        sampler, schedule = split_sampler(parameters.sampler or type(self._pipeline.scheduler).__name__)
        said = {"Sampler": sampler, "Schedule type": schedule, "Seed": parameters.seed + index}
        return build_metadata(parameters, {**said, **self._facts.texts})

    def _write_recipe(self, index: int) -> str:
        scheduler = self._pipeline.scheduler
        return write_recipe(
            self._parameters,
            index,
            maker=self._facts.maker,
            scheduler=describe_scheduler(type(scheduler).__name__, scheduler.config),
            max_bytes=MAX_RECIPE_BYTES.get(self._parameters.image_format),
        )


class FailedGeneration:
    """A job that can't be begun."""

    is_done = True
    steps_done = 0
    own_seconds = 0.0

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


def _explain(error: Exception, parameters: GenerationParameters, pipeline: Any) -> Exception:
    if isinstance(error, torch.OutOfMemoryError):
        return GenerationError(
            f"{parameters.images} image(s) of {parameters.width_pixels}x{parameters.height_pixels} pixels don't fit "
            f"into the memory of {pipeline.device}; ask for fewer or smaller images"
        )
    if isinstance(error, ValueError):  # how pipelines refuse an argument
        return GenerationError(f"{type(pipeline).__name__} refused the request: {error}")
    return error
