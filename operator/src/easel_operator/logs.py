"""The operator's log lines: JSON on standard output as the server's, and each names the service that it is about."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from easel_contract.log_lines import JsonFormatter

from easel_operator.objects import ServiceKey

_service: ContextVar[ServiceKey | None] = ContextVar("service", default=None)


@contextmanager
def logged_for(key: ServiceKey) -> Iterator[None]:
    """Lines written within, by this task and those that it starts, name the service."""
    token = _service.set(key)
    try:
        yield
    finally:
        _service.reset(token)


class ServiceFormatter(JsonFormatter):
    """Adds ``namespace`` and ``service``, as the metrics have them."""

    def add_context(self, line: dict[str, Any]) -> None:
        """The service that the current task works on."""
        if (key := _service.get()) is not None:
            line |= {"namespace": key.namespace, "service": key.name}


def configure_logging(level: str) -> None:
    """All loggers to standard output; kopf's from WARNING on."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(ServiceFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("kopf").setLevel(max(logging.WARNING, logging.getLevelName(level)))
