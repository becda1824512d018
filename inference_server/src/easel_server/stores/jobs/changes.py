"""Hearing of jobs' changes: one subscription a process, however many clients wait and watch.

Topics are what scripts publish: ``=<id>`` when a job has become final, ``#<n>`` when a watched run has changed.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.jobs.redis_fields import to_values
from easel_server.stores.redis.connection import RedisConnection
from easel_server.stores.redis.errors import translated_errors

logger = logging.getLogger(__name__)

CHANNEL: Final = "changes"
RECONNECT_SECONDS: Final = 0.5
MAX_RECONNECT_SECONDS: Final = 30.0  # after failures in a row that nobody foresaw
CANCEL_AGAIN_SECONDS: Final = 0.2
PING_AFTER_SECONDS: Final = 5.0  # of silence; no answer after as long again means that the connection is dead
# A message may be lost with its connection, so waiters look for themselves now and then.
LOOK_AGAIN_SECONDS: Final = 5.0
LOOK_AGAIN_UNSUBSCRIBED_SECONDS: Final = 1.0


def finished_topic(job_id: str) -> str:
    """Published when the job has become final."""
    return f"={job_id}"


def run_topic_of(fields: Sequence[bytes]) -> str:
    """Published when the run of the job with these fields has changed, if it is watched."""
    return f"#{to_values(fields).get(b'run', b'').decode(errors='replace')}"


class ChangedJobs:
    """Wakes whoever waits for a topic. Starts its subscription on first use."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection
        self._waiters: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._task: asyncio.Task[None] | None = None
        self._subscribed = False

    def subscribe(self, topic: str, event: asyncio.Event | None = None) -> asyncio.Event:
        """An event that is set whenever the job should be looked at again; hand it to ``unsubscribe``.

        One event may be subscribed to several topics.
        """
        if self._task is None:
            self._task = asyncio.create_task(self._listen_forever(), name="changed-jobs")
        event = event or asyncio.Event()
        self._waiters[topic].add(event)
        return event

    def unsubscribe(self, topic: str, event: asyncio.Event) -> None:
        """Forget the event."""
        self._waiters[topic].discard(event)
        if not self._waiters[topic]:
            del self._waiters[topic]

    @property
    def look_again_seconds(self) -> float:
        """How long a waiter may rely on its event alone."""
        return LOOK_AGAIN_SECONDS if self._subscribed else LOOK_AGAIN_UNSUBSCRIBED_SECONDS

    async def close(self) -> None:
        """End the subscription."""
        task = self._task
        while task is not None and not task.done():
            task.cancel()  # again and again: redis-py may swallow it while it connects
            await asyncio.wait([task], timeout=CANCEL_AGAIN_SECONDS)

    async def _listen_forever(self) -> None:
        failures = 0  # in a row that nobody foresaw
        while True:
            began_at_seconds = time.monotonic()
            try:
                await self._listen()
            except StoreUnavailableError as error:
                logger.warning("waiting clients poll until the subscription is back: %s", error)
            except Exception:
                # Whoever waits polls meanwhile; without a listener they would for as long as the process runs.
                logger.exception("the subscription ended in a way that isn't foreseen; it is made anew")
                is_new = time.monotonic() - began_at_seconds > MAX_RECONNECT_SECONDS
                failures = 1 if is_new else failures + 1
            finally:
                self._subscribed = False
            await asyncio.sleep(min(MAX_RECONNECT_SECONDS, RECONNECT_SECONDS * 2 ** min(failures, 10)))

    async def _listen(self) -> None:
        connection = self._connection
        with translated_errors(connection.address, "SUBSCRIBE"):
            async with connection.client.pubsub() as subscription:
                await subscription.subscribe(connection.key(CHANNEL))
                pinged = False
                while True:
                    message = await subscription.get_message(timeout=PING_AFTER_SECONDS)
                    if message is not None:
                        pinged = False
                        self._handle(message)
                    elif pinged:
                        raise TimeoutError(f"no answer to a ping within {PING_AFTER_SECONDS:g} s")
                    else:
                        pinged = True
                        await subscription.ping()

    def _handle(self, message: dict[str, Any]) -> None:
        if message["type"] == "subscribe":
            self._subscribed = True
            self._wake(*self._waiters)  # what happened before the subscription stood was not heard
        elif message["type"] == "message":
            self._wake(message["data"].decode(errors="replace"))

    def _wake(self, *topics: str) -> None:
        for topic in topics:
            for event in self._waiters.get(topic, ()):
                event.set()
