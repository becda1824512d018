"""A fake engine: no model, no torch; it does step by step what a test lets it do."""

import threading
from collections.abc import Callable, Sequence
from functools import partial

from easel_server.engine.interface import EngineDescription, EngineRequest, GenerationError, OnStep, Step
from easel_server.generation.parameters import GenerationParameters

PATIENCE_SECONDS = 20.0

DESCRIPTION = EngineDescription(
    engine="fake", pipeline="FakePipeline", device="cpu", dtype="float32", model="fake", load_seconds=1.5
)


def draw(parameters: GenerationParameters) -> list[bytes]:
    """The images of a request: different for each seed."""
    return [f"image of seed {parameters.seed + index}".encode() for index in range(parameters.images)]


def preview(seeds: Sequence[int], step: int) -> list[bytes]:
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
        self.fitting_requests = 1000  # a call with more runs out of memory
        self.steps = 0

    @property
    def description(self) -> EngineDescription:
        return self._description

    def allow(self, steps: int) -> None:
        for _ in range(steps):
            self._permits.release()

    def generate(self, requests: Sequence[EngineRequest], on_step: OnStep) -> list[list[bytes]]:
        seeds = [request.parameters.seed for request in requests]
        self.started += seeds
        self.batches.append(seeds)
        steps = requests[0].parameters.steps
        try:
            for step in range(1, steps + 1):
                if self._gated:
                    assert self._permits.acquire(timeout=PATIENCE_SECONDS), "the test never allowed this step"
                if self._error is not None:
                    raise self._error()
                if len(seeds) > self.fitting_requests:
                    raise MemoryError
                for seed in self.refused_seeds.intersection(seeds):
                    raise GenerationError(f"seed {seed} is refused")
                self.steps += 1
                on_step(Step(step, steps, partial(preview, seeds, step)))
        except BaseException:
            self.stopped += seeds
            raise
        return [draw(request.parameters) for request in requests]
