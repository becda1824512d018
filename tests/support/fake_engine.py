"""A fake engine: no model, no torch; it does step by step what a test lets it do."""

import threading
from collections.abc import Callable

from easel_server.engine.interface import EngineDescription, OnStep
from easel_server.job import GenerationParameters

PATIENCE_SECONDS = 20.0

DESCRIPTION = EngineDescription(
    engine="fake", pipeline="FakePipeline", device="cpu", dtype="float32", model="fake", load_seconds=1.5
)


def draw(parameters: GenerationParameters) -> list[bytes]:
    """The images of a request: different for each seed."""
    return [f"image of seed {parameters.seed + index}".encode() for index in range(parameters.images)]


class FakeEngine:
    """Runs freely, unless made with ``gated=True``: then each step waits for ``allow``."""

    def __init__(self, *, gated: bool = False, error: Callable[[], BaseException] | None = None) -> None:
        self._permits = threading.Semaphore(0)
        self._gated = gated
        self._error = error
        self.started: list[int] = []  # seeds, in the order in which generations began
        self.stopped: list[int] = []  # seeds of those that ended by an exception
        self.steps = 0

    @property
    def description(self) -> EngineDescription:
        return DESCRIPTION

    def allow(self, steps: int) -> None:
        for _ in range(steps):
            self._permits.release()

    def generate(self, parameters: GenerationParameters, on_step: OnStep) -> list[bytes]:
        self.started.append(parameters.seed)
        try:
            for step in range(1, parameters.steps + 1):
                if self._gated:
                    assert self._permits.acquire(timeout=PATIENCE_SECONDS), "the test never allowed this step"
                if self._error is not None:
                    raise self._error()
                self.steps += 1
                on_step(step, parameters.steps)
        except BaseException:
            self.stopped.append(parameters.seed)
            raise
        return draw(parameters)
