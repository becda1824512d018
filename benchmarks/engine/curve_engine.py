"""A fake engine whose step takes what a curve says: for savings that no processor at hand has. No model, no torch.

A step of n images takes ``alone * (saves + (1 - saves) * n)``: what doesn't grow with the batch (weights that are read,
kernels that are launched) is ``saves`` of a step alone, and batching saves it for all images but the first. Decoding
takes its time for each image. A job behaves from step to step as with the real engine, which a test compares.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from easel_server.engine.interface import Generation, StopGenerationError
from easel_server.engine.stepping.batch_cap import MEASURED_IMAGES, choose_cap
from easel_server.generation.models import EngineDescription
from easel_server.generation.parameters import GenerationParameters

IMAGE = b"no image"


@dataclass(frozen=True)
class Curve:
    """What a step and a decoded image take."""

    saves: float  # share of a step alone that further images don't take, 0 to 1
    step_seconds: float
    decode_seconds: float

    def take_step(self, images: int) -> float:
        """Seconds of a step of so many images; none of none."""
        return self.step_seconds * (self.saves + (1 - self.saves) * images) if images else 0.0


class CurveGeneration:
    """A job of CurveEngine."""

    warnings: tuple[str, ...] = ()

    def __init__(self, parameters: GenerationParameters) -> None:
        self.parameters = parameters
        self.steps_done = 0
        self.own_seconds = 0.0
        self.warnings: tuple[str, ...] = ()
        self.error: Exception | None = None

    @property
    def is_done(self) -> bool:
        """As Generation says."""
        return self.error is not None or self.steps_done == self.parameters.steps

    def build_preview(self) -> bytes | None:
        """There is none."""
        return None

    def checkpoint(self) -> bytes | None:
        """There is none."""
        return None

    def stop(self) -> None:
        """As Generation says."""
        if not self.is_done:
            self.error = StopGenerationError()

    def encode_images(self) -> list[bytes]:
        """As Generation says, but they show nothing."""
        return [IMAGE] * self.parameters.images


class CurveEngine:
    """Simulated: it sleeps."""

    def __init__(self, curve: Curve, *, pause: Callable[[float], None] = time.sleep) -> None:
        self._curve = curve
        self._pause = pause
        self.description = EngineDescription(
            engine="curve", pipeline="none", device="none", dtype="none", model="curve", load_seconds=0.0
        )

    def list_warnings(self, _parameters: GenerationParameters) -> tuple[str, ...]:
        """There are none."""
        return ()

    def max_images(self, _width_pixels: int, _height_pixels: int) -> int:
        """By the rule that the real engine follows with what it has measured."""
        return choose_cap({images: self._curve.take_step(images) for images in MEASURED_IMAGES})

    def begin(
        self, parameters: GenerationParameters, inputs: Mapping[str, bytes], *, checkpoint: bytes | None = None
    ) -> Generation:
        """As Engine says."""
        del inputs, checkpoint
        return CurveGeneration(parameters)

    def step(self, generations: Sequence[Generation]) -> None:
        """As Engine says."""
        running = [each for each in generations if isinstance(each, CurveGeneration) and not each.is_done]
        seconds = self._curve.take_step(sum(each.parameters.images for each in running))
        for each in running:
            each.steps_done += 1
            if each.is_done:
                each.own_seconds = self._curve.decode_seconds * each.parameters.images
                seconds += each.own_seconds
        self._pause(seconds)
