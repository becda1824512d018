"""uvicorn inside a process that has other things to do: it leaves signals to ``main``."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from easel_server.transport.protocol import BoundedHttpProtocol

# Longer than the proxies' that are common in front of it, so that it's they who close an idle connection.
KEEP_ALIVE_SECONDS = 75
START_POLL_SECONDS = 0.01
ANSWER_SECONDS = 2  # for answers that say that there is no more time


class EmbeddedServer(uvicorn.Server):
    """Serves one app until ``stop``."""

    def __init__(
        self, app: FastAPI, *, host: str, port: int, grace_seconds: int, on_grace_over: Callable[[], None] | None = None
    ) -> None:
        """``grace_seconds``: how long requests that are open at ``stop`` may take.

        Then ``on_grace_over`` is called, and they have ANSWER_SECONDS to say that they weren't done.
        """
        self._grace_seconds = grace_seconds
        self._on_grace_over = on_grace_over
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                http=BoundedHttpProtocol,
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="off",
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=grace_seconds + (ANSWER_SECONDS if on_grace_over else 0),
            )
        )
        self._serving: asyncio.Task[None] | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing: the process' signals are handled in one place, ``main``."""
        yield

    async def start(self) -> int:
        """Listen; the port that was taken. Raises OSError if it can't be had."""
        self._serving = asyncio.create_task(self._serve_or_fail())
        while not self.started and not self._serving.done():  # noqa: ASYNC110  # uvicorn has a flag, no event
            await asyncio.sleep(START_POLL_SECONDS)
        if self._serving.done():
            await self._serving
        port: int = self.servers[0].sockets[0].getsockname()[1]
        return port

    async def wait_until_ended(self) -> None:
        """Return when it serves no more, asked to or not. Raises what ended it."""
        if self._serving is not None:
            await asyncio.shield(self._serving)

    async def stop(self) -> None:
        """Take no new connection, finish open requests, close. Those that can't be finished are cancelled."""
        self.should_exit = True
        if self._serving is None:
            return
        grace = None
        if self._on_grace_over is not None:
            grace = asyncio.get_running_loop().call_later(self._grace_seconds, self._on_grace_over)
        await self._serving
        if grace is not None:
            grace.cancel()
        if cancelled := tuple(self.server_state.tasks):
            await asyncio.wait(cancelled, timeout=ANSWER_SECONDS)

    async def _serve_or_fail(self) -> None:
        try:
            await self.serve()
        except SystemExit:  # how uvicorn says that it can't listen, after logging why
            raise OSError(f"can't listen on {self.config.host} port {self.config.port}") from None
        finally:
            # uvicorn does so when it ends in order; where it doesn't, the event loop would never close.
            for listener in getattr(self, "servers", ()):
                listener.close()
