"""A collector for tests: a real HTTP server that takes traces by OTLP/HTTP and keeps their spans."""

import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

TIMEOUT_SECONDS = 30.0
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class ReceivedSpan:
    name: str
    kind: str
    service: str  # the resource's service.name
    trace_id: str
    span_id: str
    parent_id: str  # empty for a root
    began_at_seconds: float
    ended_at_seconds: float
    attributes: dict[str, Any]
    events: tuple[tuple[str, dict[str, Any]], ...]
    is_error: bool


class OtlpReceiver:
    """A context manager; ``url`` is what ``tracing.endpoint`` is set to."""

    def __init__(self) -> None:
        self.spans: list[ReceivedSpan] = []
        self.bodies: list[bytes] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                assert (self.path, self.headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
                receiver.bodies.append(body)
                receiver.spans += _read_spans(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def wait_for(self, *names: str) -> dict[str, ReceivedSpan]:
        """The spans by name, once there is at least one of each name."""
        give_up_at = time.monotonic() + TIMEOUT_SECONDS
        while missing := set(names) - {span.name for span in self.spans}:
            assert time.monotonic() < give_up_at, f"no {missing}, only {[span.name for span in self.spans]}"
            time.sleep(POLL_SECONDS)
        return {span.name: span for span in self.spans}

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(POLL_SECONDS,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _read_spans(request: ExportTraceServiceRequest) -> list[ReceivedSpan]:
    return [
        _read_span(span, str(_read(group.resource.attributes)["service.name"]))
        for group in request.resource_spans
        for scope in group.scope_spans
        for span in scope.spans
    ]


def _read_span(span: Span, service: str) -> ReceivedSpan:
    return ReceivedSpan(
        name=span.name,
        kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        service=service,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        began_at_seconds=span.start_time_unix_nano / 1e9,
        ended_at_seconds=span.end_time_unix_nano / 1e9,
        attributes=_read(span.attributes),
        events=tuple((event.name, _read(event.attributes)) for event in span.events),
        is_error=span.status.code == Status.STATUS_CODE_ERROR,
    )


def _read(attributes: Any) -> dict[str, Any]:
    pairs: list[KeyValue] = list(attributes)
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in pairs}
