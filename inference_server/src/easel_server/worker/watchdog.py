"""Watches for calls of the engine that never return: no error will ever come of them, so the process has to end."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

LEAST_LIMIT_SECONDS: Final = 300.0  # a step may compile first, or wait for a busy disk
TIMES_LONGEST: Final = 20.0  # of the longest call so far


class Watchdog:
    """Of one engine, whose calls come one at a time; looked at from another thread."""

    def __init__(self, limit_seconds: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """``limit_seconds``: how long a call may take; None: far longer than any has taken so far."""
        self._limit_seconds = limit_seconds
        self._clock = clock
        self._longest_seconds = 0.0
        self._watched: tuple[str, float] | None = None  # what, since when

    @property
    def limit_seconds(self) -> float:
        """How long a call may take."""
        return self._limit_seconds or max(LEAST_LIMIT_SECONDS, TIMES_LONGEST * self._longest_seconds)

    @contextmanager
    def watching(self, what: str) -> Iterator[None]:
        """A call of the engine; ``what`` it does."""
        began_at = self._clock()
        self._watched = (what, began_at)
        try:
            yield
        finally:
            self._watched = None
            self._longest_seconds = max(self._longest_seconds, self._clock() - began_at)

    def find_stall(self) -> str | None:
        """What takes too long to ever end, in a sentence; None if nothing does."""
        watched = self._watched
        if watched is None:
            return None
        what, began_at = watched
        seconds = self._clock() - began_at
        if seconds <= self.limit_seconds:
            return None
        return (
            f"the engine hangs: {what} has taken {seconds:.0f} s, {self.limit_seconds:.0f} s are allowed "
            "(stepTimeoutSeconds); a restart is the only way out"
        )
