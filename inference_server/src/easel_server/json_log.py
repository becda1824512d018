"""Log lines as JSON on standard output, one object a line: what log collectors expect of a container."""

import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

# What every LogRecord has; anything else came in through ``extra=``.
STANDARD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Time, level, logger and message, then the fields given by ``extra=``."""

    def __init__(self, get_request_id: Callable[[], str | None]) -> None:
        super().__init__()
        self._get_request_id = get_request_id

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        request = self._get_request_id()
        if request is not None:
            line["request_id"] = request
        line |= {name: value for name, value in vars(record).items() if name not in STANDARD_ATTRIBUTES}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def configure_logging(level: str, get_request_id: Callable[[], str | None]) -> None:
    """All loggers to standard output."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter(get_request_id))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # One line a request of ours, none of theirs.
    for chatty in ("httpx", "httpcore", "httpx2", "httpcore2", "uvicorn.access", "uvicorn.error", "urllib3"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLevelName(level)))
