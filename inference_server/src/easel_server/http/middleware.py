"""One thing each, around every request: its id, its count, its line in the log. Plain ASGI: nothing is buffered."""

import logging
import re
import time
import uuid
from collections.abc import Callable, MutableMapping
from typing import Any

from easel_contract import names
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from easel_server.http.observation import RequestMetrics
from easel_server.json_log import logged_for

REQUEST_ID_HEADER = "X-Request-Id"
REQUEST_ID_PATTERN = re.compile(r"[!-~]{1,128}")
UNMATCHED_ROUTE = "unmatched"  # one label for every path that nobody serves
PROBES = frozenset({names.PATH_HEALTH, names.PATH_READY, names.PATH_METRICS})

logger = logging.getLogger(__name__)


class RequestIdMiddleware:
    """Takes the client's X-Request-Id or makes one, and sends it back."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        own = given if REQUEST_ID_PATTERN.fullmatch(given) else uuid.uuid4().hex

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = own
            await send(message)

        with logged_for(own):
            await self._app(scope, receive, send_with_id)


class MetricsMiddleware:
    """Counts answers by route template and code."""

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

        def count(code: int) -> None:
            self._metrics.count_request(_route(scope), code)

        await _observe(self._app, scope, receive, send, count)


class AccessLogMiddleware:
    """One line a request; probes only at debug level. No prompt, no key, no query string."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        began = time.monotonic()

        def write(code: int) -> None:
            level = logging.DEBUG if scope["path"] in PROBES else logging.INFO
            seconds = round(time.monotonic() - began, 4)
            extra = {"method": scope["method"], "route": _route(scope), "code": code, "duration_seconds": seconds}
            logger.log(level, "request", extra=extra)

        await _observe(self._app, scope, receive, send, write)


def _route(scope: MutableMapping[str, Any]) -> str:
    return getattr(scope.get("route"), "path", UNMATCHED_ROUTE)


async def _observe(app: ASGIApp, scope: Scope, receive: Receive, send: Send, done: Callable[[int], None]) -> None:
    """Serve the request and call ``done`` with the code of its answer (500 if there was none)."""
    if scope["type"] != "http":
        await app(scope, receive, send)
        return
    code = 500

    async def send_and_note(message: Message) -> None:
        nonlocal code
        if message["type"] == "http.response.start":
            code = message["status"]
        await send(message)

    try:
        await app(scope, receive, send_and_note)
    finally:
        done(code)
