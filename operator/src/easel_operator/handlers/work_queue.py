"""A queue of keys: each at most once, never two workers on one key, and failed ones again after a growing delay."""

import asyncio
from random import random
from typing import Final

from easel_operator.objects import ServiceKey

FIRST_DELAY_SECONDS: Final = 0.5
MAX_DELAY_SECONDS: Final = 60.0
SOON_SECONDS: Final = 0.25  # a new Deployment's controllers write its status several times within


class WorkQueue:
    """Bounded by the number of services: adding a key that waits already does nothing."""

    def __init__(self) -> None:
        self._ready: asyncio.Queue[ServiceKey] = asyncio.Queue()
        self._waiting: set[ServiceKey] = set()
        self._working: set[ServiceKey] = set()
        self._dirty: set[ServiceKey] = set()  # added while a worker was on it
        self._failures: dict[ServiceKey, int] = {}
        self._timers: dict[ServiceKey, asyncio.TimerHandle] = {}
        self._alarms: dict[ServiceKey, asyncio.TimerHandle] = {}
        self._soon: dict[ServiceKey, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: ServiceKey) -> None:
        """Have the key worked on at once."""
        if key in self._working:
            self._dirty.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.put_nowait(key)

    def add_soon(self, key: ServiceKey) -> None:
        """Have the key worked on within SOON_SECONDS, together with whatever else comes until then."""
        if key not in self._soon and key not in self._waiting:
            self._soon[key] = asyncio.get_running_loop().call_later(SOON_SECONDS, self._add_soon_now, key)

    def _add_soon_now(self, key: ServiceKey) -> None:
        self._soon.pop(key, None)
        self.add(key)

    def add_later(self, key: ServiceKey, delay_seconds: float | None) -> None:
        """Have the key worked on after a delay, whatever happens until then; the latest call counts, None ends it."""
        earlier = self._alarms.pop(key, None)
        if earlier is not None:
            earlier.cancel()
        if delay_seconds is not None:
            self._alarms[key] = asyncio.get_running_loop().call_later(delay_seconds, self._add_now, key)

    def _add_now(self, key: ServiceKey) -> None:
        self._alarms.pop(key, None)
        self.add(key)

    async def get(self) -> ServiceKey:
        """The next key; call done() or retry() with it afterwards."""
        key = await self._ready.get()
        self._waiting.discard(key)
        self._working.add(key)
        soon = self._soon.pop(key, None)
        if soon is not None:
            soon.cancel()  # what was to be looked at soon is looked at now
        return key

    def done(self, key: ServiceKey) -> None:
        """The work on the key succeeded."""
        self._failures.pop(key, None)
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        self._release(key)

    def retry(self, key: ServiceKey) -> float:
        """The work on the key failed: it comes again after a delay, which is returned, in seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        longest = min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * (1 << min(failures, 10)))
        delay_seconds = longest * (0.5 + 0.5 * random())  # noqa: S311 - spreads load, guards nothing
        earlier = self._timers.pop(key, None)
        if earlier is not None:
            earlier.cancel()
        self._timers[key] = asyncio.get_running_loop().call_later(delay_seconds, self._add_again, key)
        self._release(key)
        return delay_seconds

    def _add_again(self, key: ServiceKey) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _release(self, key: ServiceKey) -> None:
        self._working.discard(key)
        if key in self._dirty:
            self._dirty.discard(key)
            self.add(key)
