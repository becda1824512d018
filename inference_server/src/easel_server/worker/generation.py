"""One call of the engine in a thread, watched and stopped from the event loop."""

import asyncio
import time
from concurrent.futures import Executor
from enum import StrEnum

from easel_server.engine.interface import Engine, StopGenerationError
from easel_server.job import GenerationParameters


class StopReason(StrEnum):
    """Why a generation is to end early."""

    CANCEL = "Cancel"
    DEADLINE_PASSED = "DeadlinePassed"
    LOST = "Lost"  # another worker has the job
    DRAIN = "Drain"


class Generation:
    """Start it once with ``start``; ``stop`` takes effect at the next step boundary. The first reason stands."""

    def __init__(self, engine: Engine, parameters: GenerationParameters) -> None:
        self._engine = engine
        self._parameters = parameters
        # Plain attributes: one thread writes each, and a reader that sees it late loses nothing.
        self.steps_done = 0
        self.stop_reason: StopReason | None = None
        self.started_at_seconds = time.monotonic()
        self.last_step_at_seconds = self.started_at_seconds
        self.ended_at_seconds = self.started_at_seconds

    def start(self, executor: Executor) -> asyncio.Future[tuple[bytes, ...]]:
        """Run in the executor's thread. The future raises what the engine raised."""
        return asyncio.get_running_loop().run_in_executor(executor, self._run)

    def stop(self, reason: StopReason) -> None:
        """Ask for the end."""
        if self.stop_reason is None:
            self.stop_reason = reason

    def _run(self) -> tuple[bytes, ...]:
        self.started_at_seconds = self.last_step_at_seconds = time.monotonic()
        try:
            return tuple(self._engine.generate(self._parameters, self._on_step))
        finally:
            self.ended_at_seconds = time.monotonic()

    def _on_step(self, steps_done: int, steps: int) -> None:
        del steps
        self.steps_done = steps_done
        self.last_step_at_seconds = time.monotonic()
        if self.stop_reason is not None:
            raise StopGenerationError(self.stop_reason)
