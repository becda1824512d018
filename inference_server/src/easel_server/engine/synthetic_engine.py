"""An engine for load and scaling tests: it takes the time that a GPU would, and returns a labelled picture. No torch.

A batch takes as long as its jobs would one after the other: nothing is claimed about what batching gains.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial

from easel_contract.server_config import SyntheticConfig

from easel_server.engine.interface import EngineDescription, EngineRequest, OnStep, Step
from easel_server.engine.synthetic_pictures import draw_labelled, draw_previews, look_up_plain
from easel_server.generation.cost import PIXELS_PER_UNIT
from easel_server.generation.models import GenerationDefaults
from easel_server.generation.parameters import GenerationParameters
from easel_server.generation.samplers import SAMPLERS
from easel_server.generation.tasks import Task

NAME = "synthetic"
MILLISECONDS = 1000


class SyntheticEngine:
    """Draws any request. Without any time configured it doesn't sleep, and its label names the size only."""

    def __init__(
        self,
        model: str,
        config: SyntheticConfig,
        *,
        defaults: GenerationDefaults | None = None,
        load_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """``pause`` sleeps for seconds of ``clock``; both are the real ones but in tests."""
        self._config = config
        self._clock = clock
        self._pause = pause
        self._description = EngineDescription(
            engine=NAME,
            pipeline=type(self).__name__,
            device="none",
            dtype="none",
            model=model,
            load_seconds=load_seconds,
            tasks=tuple(Task),
            samplers=tuple(SAMPLERS),
            defaults=defaults or GenerationDefaults(),
            is_instant=config.milliseconds_per_step == 0 and config.milliseconds_per_image == 0,
        )

    @property
    def description(self) -> EngineDescription:
        """See Engine."""
        return self._description

    def generate(self, requests: Sequence[EngineRequest], on_step: OnStep) -> list[list[bytes]]:
        """See Engine. Input pictures make no difference, but to the number of steps."""
        parameters = [request.parameters for request in requests]
        steps, denoising_steps = parameters[0].steps, parameters[0].denoising_steps
        step_seconds = sum(map(self._step_seconds, parameters))
        began = self._clock()
        for index in range(denoising_steps):
            # Each step ends at its own time since the beginning, so that late wake-ups don't add up.
            self._pause_until(began + (index + 1) * step_seconds)
            done = (index + 1) * steps // denoising_steps
            on_step(Step(done, steps, partial(draw_previews, parameters, done)))
        images = sum(one.images for one in parameters)
        self._pause_until(began + denoising_steps * step_seconds + self._image_seconds * images)
        return [self._draw(one) for one in parameters]

    @property
    def _image_seconds(self) -> float:
        return self._config.milliseconds_per_image / MILLISECONDS

    def _step_seconds(self, parameters: GenerationParameters) -> float:
        megapixels = parameters.width_pixels * parameters.height_pixels / PIXELS_PER_UNIT
        units = megapixels * parameters.images * parameters.passes
        return units * self._config.milliseconds_per_step / MILLISECONDS

    def _pause_until(self, time_seconds: float) -> None:
        left_seconds = time_seconds - self._clock()
        if left_seconds > 0:
            self._pause(left_seconds)

    def _draw(self, parameters: GenerationParameters) -> list[bytes]:
        draw = look_up_plain if self._description.is_instant else draw_labelled
        seeds = range(parameters.seed, parameters.seed + parameters.images)
        return [draw(parameters, seed, self._description.model) for seed in seeds]
