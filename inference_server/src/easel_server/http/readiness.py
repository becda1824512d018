"""Whether this process can take work now, and if not, why: the body and the code of /readyz.

reason                code  meaning
------                ----  -------
Available             200   work is taken
Loading               503   the model is being loaded
Draining              503   the process is ending
RedisUnavailable      503   the broker doesn't answer
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from easel_server.broker.interface import BrokerError

PING_TIMEOUT_SECONDS = 1.0  # less than the probe's own time-out, so that the probe hears why


class ReadyReason(StrEnum):
    """One word for why a process is ready or not."""

    AVAILABLE = "Available"
    LOADING = "Loading"
    DRAINING = "Draining"
    REDIS_UNAVAILABLE = "RedisUnavailable"


@dataclass(frozen=True)
class ReadyState:
    """The answer to a readiness probe."""

    reason: ReadyReason
    message: str

    @property
    def is_ready(self) -> bool:
        """Whether work is taken."""
        return self.reason is ReadyReason.AVAILABLE


class Readiness:
    """What keeps this process from taking work. ``main`` holds and lifts; the broker is asked at each look."""

    def __init__(self, ping: Callable[[], Awaitable[None]]) -> None:
        self._ping = ping
        self._holds: dict[ReadyReason, str] = {}

    def hold(self, reason: ReadyReason, message: str) -> None:
        """Not ready, for this reason, until it is lifted."""
        self._holds[reason] = message

    def lift(self, reason: ReadyReason) -> None:
        """This reason holds no longer."""
        self._holds.pop(reason, None)

    async def look(self) -> ReadyState:
        """The state now; takes at most PING_TIMEOUT_SECONDS."""
        # Draining outranks the rest: it doesn't pass.
        for reason in (ReadyReason.DRAINING, ReadyReason.LOADING):
            if reason in self._holds:
                return ReadyState(reason, self._holds[reason])
        try:
            async with asyncio.timeout(PING_TIMEOUT_SECONDS):
                await self._ping()
        except TimeoutError:
            message = f"the broker did not answer within {PING_TIMEOUT_SECONDS:g} s"
            return ReadyState(ReadyReason.REDIS_UNAVAILABLE, message)
        except BrokerError as error:
            return ReadyState(ReadyReason.REDIS_UNAVAILABLE, str(error))
        return ReadyState(ReadyReason.AVAILABLE, "takes work")
