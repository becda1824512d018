"""Tasks that run as long as their process does: one that fails is logged, counted and begun again.

Only for what nobody awaits until the end. Who knows an error (an outage of the stores) deals with it itself.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

FIRST_PAUSE_SECONDS: Final = 1.0
MAX_PAUSE_SECONDS: Final = 30.0  # also how long a task must have run for its next failure to count as a first one

logger = logging.getLogger(__name__)


class TaskMetrics(Protocol):
    """What counts failures."""

    def count_task_failure(self, task: str) -> None:
        """A task ended, or a round of it, by an error that nobody foresaw."""
        ...


def note_failure(task: str, metrics: TaskMetrics, error: Exception) -> None:
    """Say and count that something failed which goes on all the same."""
    metrics.count_task_failure(task)
    logger.error("%s: failed in a way that isn't foreseen, and goes on: %r", task, error, exc_info=error)


async def keep_running(
    task: str,
    run: Callable[[], Awaitable[None]],
    metrics: TaskMetrics,
    *,
    first_pause_seconds: float = FIRST_PAUSE_SECONDS,
    max_pause_seconds: float = MAX_PAUSE_SECONDS,
) -> None:
    """Run until cancelled, again after each failure: a pause that doubles bounds what it costs and logs.

    A task that ends without one is begun again too.
    """
    loop = asyncio.get_running_loop()
    pause_seconds = first_pause_seconds
    while True:
        began_at = loop.time()
        try:
            await run()
            raise RuntimeError("it ended by itself")
        except Exception as error:
            note_failure(task, metrics, error)
        if loop.time() - began_at > max_pause_seconds:
            pause_seconds = first_pause_seconds
        await asyncio.sleep(pause_seconds)
        pause_seconds = min(2 * pause_seconds, max_pause_seconds)
