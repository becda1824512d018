"""Keeps the operator's loops going when one of them meets something that nobody foresaw.

A fault of one object comes again after a restart, which would take the scaling of all the others with it; so what is
unforeseen is logged with its traceback, counted, and tried again after a growing pause. Only a loop that has got nowhere
for minutes makes /healthz fail: then what is broken may be this process, and a new one is worth a try.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from easel_operator.operator_metrics import FAULTS

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS: Final = 1.0
MAX_PAUSE_SECONDS: Final = 60.0
# A loop that ran this long since its last fault has recovered from it.
RECOVERED_AFTER_SECONDS: Final = 2 * MAX_PAUSE_SECONDS
MAX_FAULTY_SECONDS: Final = 300.0


@dataclass
class Streak:
    """Faults of one loop in a row, on the monotonic clock."""

    first_at: float
    last_at: float
    faults: int
    last: str


class LoopGuard:
    """Runs loops that shouldn't end, and knows which of them don't get anywhere."""

    def __init__(
        self, *, monotonic: Callable[[], float], sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._monotonic = monotonic
        self._sleep = sleep
        self._streaks: dict[str, Streak] = {}

    async def keep_going(self, name: str, loop: Callable[[], Awaitable[None]]) -> None:
        """Run a loop for ever: begun anew, after a pause, whenever it raises. Returns if the loop does."""
        while True:
            try:
                await loop()
                return
            except Exception as error:
                FAULTS.labels(name).inc()
                streak = self._note(name, error)
                pause_seconds = min(FIRST_PAUSE_SECONDS * 2 ** min(streak.faults - 1, 10), MAX_PAUSE_SECONDS)
                logger.exception("A fault in %s, which begins anew in %.0f s", name, pause_seconds)
            await self._sleep(pause_seconds)

    def _note(self, name: str, error: Exception) -> Streak:
        now, text = self._monotonic(), f"{type(error).__name__}: {error}"
        streak = self._streaks.get(name)
        if streak is None or now - streak.last_at > RECOVERED_AFTER_SECONDS:
            streak = self._streaks[name] = Streak(now, now, 0, text)
        streak.last_at, streak.faults, streak.last = now, streak.faults + 1, text
        return streak

    def describe_faults(self) -> str | None:
        """Which loop has met nothing but faults for MAX_FAULTY_SECONDS; None while all get on."""
        now = self._monotonic()
        for name, streak in self._streaks.items():
            if (
                now - streak.last_at <= RECOVERED_AFTER_SECONDS
                and streak.last_at - streak.first_at > MAX_FAULTY_SECONDS
            ):
                return f"{name} failed {streak.faults} times running, the last time with {streak.last}"
        return None
