"""What surrounds every request: its id, its count, its line in the log, its span. Plain ASGI: nothing is buffered."""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from easel_contract import names
from opentelemetry.trace import Span, SpanKind, Tracer
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from easel_server.gateway.ending import Ending
from easel_server.gateway.refusals import CLIENT_LEFT_STATUS, RefusalError, refuse_for_open_requests
from easel_server.telemetry.gateway_metrics import RequestMetrics
from easel_server.telemetry.logs import request_id
from easel_server.telemetry.tracing import TRACE_PARENT, fail_span, open_span, to_trace_parent
from easel_server.transport.protocol import CLIENT_LEFT

REQUEST_ID_HEADER = b"x-request-id"  # as ASGI has it: in lower case
REQUEST_ID_PATTERN = re.compile(rb"[!-~]{1,128}")
UNMATCHED_ROUTE = "unmatched"  # one label for every path that nobody serves
QUIET = "easel.quiet"  # in a scope: of so little interest, and so frequent, that metrics say enough of it
PROBES = frozenset({names.PATH_HEALTH, names.PATH_READY, names.PATH_METRICS})
logger = logging.getLogger(__name__)


NO_ANSWER: Final = 0
MAX_OPEN_REQUESTS: Final = 10_000  # each takes some tens of kilobytes

BuildError = Callable[[str, RefusalError], tuple[int, dict[str, Any]]]


class RequestMiddleware:
    """Gives each request its id, bounds how many are open, counts each answer and logs it in one line.

    The id is the client's X-Request-Id if it is one that can be logged, else a random one; it is sent back. A line says
    neither prompt nor key nor query string; probes are logged at debug level only, and so is what is marked as QUIET.
    Probes pass the bound too: a restart would help nobody. A request that gets no answer counts as a 500, one whose
    client left before its answer began as a 499, whatever the answer would have been.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: RequestMetrics,
        build_error: BuildError,
        ending: Ending,
        bound: int = MAX_OPEN_REQUESTS,
    ) -> None:
        """``build_error`` gives status and body of a refusal at a path, in the shape of the API spoken there."""
        self._app = app
        self._metrics = metrics
        self._build_error = build_error
        self._ending = ending
        self._bound = bound
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        code = NO_ANSWER
        own = choose_request_id(scope["headers"])

        async def send_with_id(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = CLIENT_LEFT_STATUS if CLIENT_LEFT in scope else message["status"]
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID_HEADER, own.encode())]
            await send(message)

        is_bounded = scope["path"] not in PROBES
        is_refused = is_bounded and self._open >= self._bound
        self._open += is_bounded
        token = request_id.set(own)  # for the lines that this task writes, and those that it starts
        try:
            if is_refused:
                await self._refuse(refuse_for_open_requests(self._bound), scope, receive, send_with_id)
            else:
                await self._app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            # The server does that to what is open when its time to end is over, and answers it by a bare 500.
            if not self._ending.has_begun or code != NO_ANSWER:
                raise
            await self._refuse(self._ending.refuse(), scope, receive, send_with_id)
        finally:
            self._open -= is_bounded
            if code == NO_ANSWER:
                code = CLIENT_LEFT_STATUS if CLIENT_LEFT in scope else 500
            self._note(scope, code, time.monotonic() - began)
            request_id.reset(token)

    async def _refuse(self, refusal: RefusalError, scope: Scope, receive: Receive, send: Send) -> None:
        self._metrics.count_refusal(refusal.code)
        status, body = self._build_error(scope["path"], refusal)
        await JSONResponse(body, status_code=status, headers=dict(refusal.headers))(scope, receive, send)

    def _note(self, scope: Scope, code: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", UNMATCHED_ROUTE)
        if scope["path"] not in PROBES:  # the kubelet's and Prometheus' requests aren't clients'
            self._metrics.count_request(route, code, to_known_method(scope["method"]), seconds)
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


KNOWN_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
OTHER_METHOD = "_OTHER"  # so that nobody can make names without bound
# https://w3c.github.io/trace-context/#trace-context-http-response-headers-format
TRACE_RESPONSE_HEADER = "traceresponse"


def to_known_method(method: str) -> str:
    """The method, or one name for all that isn't HTTP's."""
    return method if method in KNOWN_METHODS else OTHER_METHOD


class TracingMiddleware:
    """Continues the client's trace (``traceparent``) or begins one, and says in ``traceresponse`` which it was."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        parent = Headers(scope=scope).get(TRACE_PARENT)
        method = to_known_method(scope["method"])
        attributes = {"http.request.method": method, "url.scheme": scope["scheme"]}
        with open_span(self._tracer, method, kind=SpanKind.SERVER, attributes=attributes, parent=parent) as span:

            async def send_and_note(message: Message) -> None:
                if message["type"] == "http.response.start":
                    _note_answer(span, method, scope, message["status"])
                    if (trace_parent := to_trace_parent(span)) is not None:
                        MutableHeaders(scope=message)[TRACE_RESPONSE_HEADER] = trace_parent
                await send(message)

            await self._app(scope, receive, send_and_note)


def _note_answer(span: Span, method: str, scope: Scope, status: int) -> None:
    span.set_attribute("http.response.status_code", status)
    if (own := request_id.get()) is not None:
        span.set_attribute("easel.request.id", own)
    route = getattr(scope.get("route"), "path", None)
    if route is not None:  # unset for paths that nobody serves: their names would have no bound
        span.update_name(f"{method} {route}")
        span.set_attribute("http.route", route)
    if status >= 500:
        fail_span(span, str(status))
