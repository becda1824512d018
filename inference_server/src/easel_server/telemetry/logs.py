"""The server's log lines: JSON on standard output, each naming the request that it is about, in the gateway and in the
worker alike, and its trace if there is one.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from easel_contract.log_lines import JsonFormatter

from easel_server.telemetry.tracing import current_trace_id

# The id of the HTTP request that the current task works for.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


@contextmanager
def logged_for(request: str | None) -> Iterator[None]:
    """Lines written within, by this task and those that it starts, carry the request's id."""
    token = request_id.set(request)
    try:
        yield
    finally:
        request_id.reset(token)


class RequestFormatter(JsonFormatter):
    """Adds the request that the line is about, and its trace."""

    def __init__(self, *, is_traced: bool = False) -> None:
        """``is_traced``: whether to look for a trace; it costs a little in each line."""
        super().__init__()
        self._is_traced = is_traced

    def add_context(self, line: dict[str, Any]) -> None:
        """What the current task works for."""
        if (request := request_id.get()) is not None:
            line["request_id"] = request
        if self._is_traced and (trace_id := current_trace_id()) is not None:
            line["trace_id"] = trace_id


def configure_logging(level: str, *, is_traced: bool = False) -> None:
    """All loggers to standard output."""
    # What no line shows needn't be found out: https://docs.python.org/3/howto/logging.html#optimization
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(RequestFormatter(is_traced=is_traced))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # One line a request of ours, none of theirs.
    for chatty in ("httpx", "httpcore", "httpx2", "httpcore2", "uvicorn.access", "uvicorn.error", "urllib3"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLevelName(level)))
    logging.getLogger("emcache").setLevel(logging.ERROR)  # warns of each connection that a lost server takes along
