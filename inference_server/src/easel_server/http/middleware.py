"""One thing each, around every request: its id, its count, its line in the log. Plain ASGI: nothing is buffered."""

import logging
import re
import secrets
import time
from collections.abc import Iterable

from easel_contract import names
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from easel_server.http.observation import RequestMetrics
from easel_server.json_log import logged_for

REQUEST_ID_HEADER = b"x-request-id"  # as ASGI has it: in lower case
REQUEST_ID_PATTERN = re.compile(rb"[!-~]{1,128}")
UNMATCHED_ROUTE = "unmatched"  # one label for every path that nobody serves
QUIET = "easel.quiet"  # in a scope: of so little interest, and so frequent, that metrics say enough of it
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
        own = choose_request_id(scope["headers"])

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID_HEADER, own.encode())]
            await send(message)

        with logged_for(own):
            await self._app(scope, receive, send_with_id)


class AccessMiddleware:
    """Counts each answer, and logs it in one line: neither prompt nor key nor query string.

    Probes are logged at debug level only, and so is what is marked as QUIET.
    """

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. One that gets no answer counts as a 500."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        code = 500

        async def send_and_note(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            self._note(scope, code, time.monotonic() - began)

    def _note(self, scope: Scope, code: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", UNMATCHED_ROUTE)
        self._metrics.count_request(route, code)
        level = logging.DEBUG if scope["path"] in PROBES or QUIET in scope else logging.INFO
        if logger.isEnabledFor(level):
            extra = {"method": scope["method"], "route": route, "code": code, "duration_seconds": round(seconds, 4)}
            logger.log(level, "request", extra=extra)


def choose_request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The client's, if it is one that can be logged; else a random one."""
    for name, value in headers:
        if name == REQUEST_ID_HEADER and REQUEST_ID_PATTERN.fullmatch(value):
            return value.decode("ascii")
    return secrets.token_hex(16)
