"""Loads the model in a thread of its own, so that the process answers probes meanwhile. Imports no torch itself."""

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from easel_server.engine.interface import Engine

Loaded = TypeVar("Loaded", bound=Engine)


def start_loading(load: Callable[[], Loaded]) -> asyncio.Future[Loaded]:
    """Call ``load`` in a thread; the future has its result or what it raised.

    The thread is a daemon: neither a download nor a driver can be interrupted, and the process must end all the same.
    """
    loop = asyncio.get_running_loop()
    loaded: asyncio.Future[Loaded] = loop.create_future()

    def settle(engine: Loaded | None, error: Exception | None) -> None:
        if loaded.cancelled():
            return
        if engine is not None:
            loaded.set_result(engine)
        elif error is not None:
            loaded.set_exception(error)

    def run() -> None:
        try:
            engine = load()
        except Exception as error:
            report(None, error)
        else:
            report(engine, None)

    def report(engine: Loaded | None, error: Exception | None) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, engine, error)

    threading.Thread(target=run, name="load-model", daemon=True).start()
    return loaded
