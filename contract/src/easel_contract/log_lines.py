"""How log lines look: JSON, one object a line, as log collectors expect of a container. What to log is the callers'.

The formatter is our own: docs/decisions/2026-11-26-log-lines.md.
"""

import json
import logging
from datetime import UTC, datetime
from typing import Any, Final

# What every LogRecord has; anything else came in through ``extra=``.
STANDARD_ATTRIBUTES: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

# Made once: json.dumps makes a new one for every call that asks for more than the defaults.
ENCODER: Final = json.JSONEncoder(default=str, ensure_ascii=False)


class JsonFormatter(logging.Formatter):
    """Time, level, logger and message, what the line is about, then the fields given by ``extra=``."""

    def add_context(self, line: dict[str, Any]) -> None:
        """Put in what the line is about, as far as the process knows."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        self.add_context(line)
        line |= {name: value for name, value in vars(record).items() if name not in STANDARD_ATTRIBUTES}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return ENCODER.encode(line)
