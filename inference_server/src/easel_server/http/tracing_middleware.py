"""A span around every request, by OpenTelemetry's conventions for HTTP servers. Plain ASGI: nothing is buffered.

https://opentelemetry.io/docs/specs/semconv/http/http-spans/
No query string, since a key might be in it (FastAPI's own spans, which are off, have it), no header
and no body.
"""

from easel_contract import names
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from easel_server.json_log import request_id
from easel_server.tracing import Span, SpanKind, Tracer

UNTRACED = frozenset({names.PATH_HEALTH, names.PATH_READY, names.PATH_METRICS})
KNOWN_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
OTHER_METHOD = "_OTHER"  # so that nobody can make names without bound
# https://w3c.github.io/trace-context/#trace-context-http-response-headers-format
TRACE_RESPONSE_HEADER = "traceresponse"


class TracingMiddleware:
    """Continues the client's trace (``traceparent``) or begins one, and says in ``traceresponse`` which it was."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] in UNTRACED:
            await self._app(scope, receive, send)
            return
        parent = Headers(scope=scope).get("traceparent")
        method = scope["method"] if scope["method"] in KNOWN_METHODS else OTHER_METHOD
        attributes = {"http.request.method": method, "url.scheme": scope["scheme"]}
        with self._tracer.span(method, kind=SpanKind.SERVER, attributes=attributes, parent=parent) as span:

            async def send_and_note(message: Message) -> None:
                if message["type"] == "http.response.start":
                    _note_answer(span, method, scope, message["status"])
                    if span.trace_parent is not None:
                        MutableHeaders(scope=message)[TRACE_RESPONSE_HEADER] = span.trace_parent
                await send(message)

            await self._app(scope, receive, send_and_note)


def _note_answer(span: Span, method: str, scope: Scope, status: int) -> None:
    span.describe({"http.response.status_code": status})
    if (own := request_id.get()) is not None:
        span.describe({"easel.request.id": own})
    route = getattr(scope.get("route"), "path", None)
    if route is not None:  # unset for paths that nobody serves: their names would have no bound
        span.rename(f"{method} {route}")
        span.describe({"http.route": route})
    if status >= 500:
        span.fail(str(status))
