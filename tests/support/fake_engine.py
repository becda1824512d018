"""A fake engine: no model, no torch; it does step by step what a test lets it do."""

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from easel_server.engine.interface import GenerationError, OnStep, Step
from easel_server.generation.models import EngineDescription
from easel_server.generation.parameters import GenerationParameters

STEP_TIMEOUT_SECONDS = 20.0

DESCRIPTION = EngineDescription(
    engine="fake", pipeline="FakePipeline", device="cpu", dtype="float32", model="fake", load_seconds=1.5
)


def images_of(parameters: GenerationParameters) -> list[bytes]:
    """The images of a job: different for each seed."""
    return [f"image of seed {parameters.seed + index}".encode() for index in range(parameters.images)]


def previews_of(seeds: Sequence[int], step: int) -> list[bytes]:
    """The previews of a batch after a step."""
    return [f"{seed} at {step}".encode() for seed in seeds]


class FakeEngine:
    """Runs freely, unless made with ``gated=True``: then each step waits for ``allow``."""

    def __init__(
        self,
        *,
        gated: bool = False,
        error: Callable[[], BaseException] | None = None,
        description: EngineDescription = DESCRIPTION,
    ) -> None:
        self._description = description
        self._permits = threading.Semaphore(0)
        self._gated = gated
        self._error = error
        self.started: list[int] = []  # seeds, in the order in which generations began
        self.stopped: list[int] = []  # seeds of those that ended by an exception
        self.batches: list[list[int]] = []  # seeds of each call
        self.refused_seeds: set[int] = set()  # any call that has one of them fails
        self.breaks_after: int | None = None  # calls; each further one raises a RuntimeError
        self.breaking_seeds: dict[int, str] = {}  # after a call with one of them, each raises this
        self.broken = ""
        self.unlucky_seeds: dict[int, int] = {}  # so many calls that have one of them raise a KeyError
        self.fitting_jobs = 1000  # a call with more runs out of memory
        self.steps = 0

    @property
    def description(self) -> EngineDescription:
        return self._description

    def allow(self, steps: int) -> None:
        for _ in range(steps):
            self._permits.release()

    def generate(
        self, batch: Sequence[GenerationParameters], inputs: Mapping[str, bytes], on_step: OnStep
    ) -> list[list[bytes]]:
        del inputs
        seeds = [parameters.seed for parameters in batch]
        self.started += seeds
        self.batches.append(seeds)
        steps = batch[0].steps
        try:
            for step in range(1, steps + 1):
                if self._gated:
                    assert self._permits.acquire(timeout=STEP_TIMEOUT_SECONDS), "the test never allowed this step"
                self._break(seeds)
                if self._error is not None:
                    raise self._error()
                if len(seeds) > self.fitting_jobs:
                    raise MemoryError
                for seed in self.refused_seeds.intersection(seeds):
                    raise GenerationError(f"seed {seed} is refused")
                self.steps += 1
                on_step(Step(step, steps, partial(previews_of, seeds, step)))
        except BaseException:
            self.stopped += seeds
            raise
        return [images_of(parameters) for parameters in batch]

    def list_warnings(self, parameters: GenerationParameters) -> tuple[str, ...]:
        return (f"seed {parameters.seed} is unlucky",) if parameters.seed == 13 else ()

    def _break(self, seeds: Sequence[int]) -> None:
        for seed in self.breaking_seeds.keys() & set(seeds):
            self.broken = self.breaking_seeds[seed]
        if self.breaks_after is not None and len(self.batches) > self.breaks_after:
            self.broken = "the engine is broken"
        for seed in self.unlucky_seeds.keys() & set(seeds):
            if self.unlucky_seeds[seed] > 0:
                self.unlucky_seeds[seed] -= 1
                raise KeyError("scheduler")
        if self.broken:
            raise RuntimeError(self.broken)
