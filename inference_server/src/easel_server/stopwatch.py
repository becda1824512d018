"""Measures for how long something went on, also while it still goes on: what a counter of seconds needs."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopwatch:
    """Runs while at least one holder does. For one event loop or thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._holders = 0
        self._started_at = 0.0
        self._seconds = 0.0

    @property
    def seconds(self) -> float:
        """Time that it has run, up to now."""
        return self._seconds + (self._clock() - self._started_at if self._holders else 0.0)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Hold it."""
        if not self._holders:
            self._started_at = self._clock()
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            if not self._holders:
                self._seconds += self._clock() - self._started_at
