"""Log lines as JSON on standard output, one object a line: what log collectors expect of a container.

Each line names the request that it is about, in the gateway and in the worker alike, and its trace if there is one. The
formatter is our own: docs/decisions/2026-11-26-log-lines.md.
"""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from easel_server.telemetry.tracing import current_trace_id

# The id of the HTTP request that the current task works for.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

# What every LogRecord has; anything else came in through ``extra=``.
STANDARD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

# Made once: json.dumps makes a new one for every call that asks for more than the defaults.
ENCODER = json.JSONEncoder(default=str, ensure_ascii=False)


@contextmanager
def logged_for(request: str | None) -> Iterator[None]:
    """Lines written within, by this task and those that it starts, carry the request's id."""
    token = request_id.set(request)
    try:
        yield
    finally:
        request_id.reset(token)


class JsonFormatter(logging.Formatter):
    """Time, level, logger and message, the request and the trace, then the fields given by ``extra=``."""

    def __init__(self, *, is_traced: bool = False) -> None:
        """``is_traced``: whether to look for a trace; it costs a little in each line."""
        super().__init__()
        self._is_traced = is_traced

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (request := request_id.get()) is not None:
            line["request_id"] = request
        if self._is_traced and (trace_id := current_trace_id()) is not None:
            line["trace_id"] = trace_id
        line |= {name: value for name, value in vars(record).items() if name not in STANDARD_ATTRIBUTES}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return ENCODER.encode(line)


def configure_logging(level: str, *, is_traced: bool = False) -> None:
    """All loggers to standard output."""
    # What no line shows needn't be found out: https://docs.python.org/3/howto/logging.html#optimization
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter(is_traced=is_traced))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # One line a request of ours, none of theirs.
    for chatty in ("httpx", "httpcore", "httpx2", "httpcore2", "uvicorn.access", "uvicorn.error", "urllib3"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLevelName(level)))
    logging.getLogger("emcache").setLevel(logging.ERROR)  # warns of each connection that a lost server takes along
