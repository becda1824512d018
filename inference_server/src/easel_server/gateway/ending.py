"""The end of a gateway's grace period: what still waits then is answered, and its job goes on elsewhere.

A gateway that stops has some time in which open requests are served as ever (``gateway.drainSeconds``). What waits for
longer can't be finished here, and a connection that breaks says nothing to its client; so waits end with an answer
that names the job.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from easel_server.gateway.refusals import RefusalError, refuse_for_ending


class Ending:
    """Begins once, and interrupts whatever waits. For one event loop."""

    def __init__(self, *, jobs_outlive: bool) -> None:
        """``jobs_outlive``: whether jobs go on when this process ends, as they do in Redis."""
        self._jobs_outlive = jobs_outlive
        self._has_begun = False
        self._waits: set[asyncio.Future[None]] = set()

    @property
    def has_begun(self) -> bool:
        """Whether nothing may wait any more."""
        return self._has_begun

    def begin(self) -> None:
        """No more waiting."""
        self._has_begun = True
        for wait in self._waits:
            if not wait.done():
                wait.set_result(None)

    @contextmanager
    def watched(self) -> Iterator[asyncio.Future[None]]:
        """A future that is done as soon as the ending has begun."""
        wait: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._has_begun:
            wait.set_result(None)
        self._waits.add(wait)
        try:
            yield wait
        finally:
            self._waits.discard(wait)
            wait.cancel()

    def refuse(self, job_id: str | None = None) -> RefusalError:
        """What a request gets that can't be waited for; ``job_id`` if it has a job."""
        return refuse_for_ending(job_id, goes_on=self._jobs_outlive)
