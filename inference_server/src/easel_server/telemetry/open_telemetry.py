"""The tracer on OpenTelemetry's SDK: spans leave by OTLP/HTTP, in batches, from a thread of the SDK.

The one file that imports opentelemetry. Where the collector is away, spans are dropped: at most the SDK's queue of
2,048 (``OTEL_BSP_MAX_QUEUE_SIZE``) is kept. What the environment says of resource, headers, certificates, batches and
span limits holds as the SDK documents it; of the endpoint, only where the configuration names none.
"""

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import version
from typing import Final

from easel_contract.server_config import TracingConfig
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.trace import (
    Span,
    SpanKind,
    Status,
    StatusCode,
    get_current_span,
    set_span_in_context,
    use_span,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from easel_server.telemetry import tracing

TRACES_PATH: Final = "/v1/traces"
CLOSE_SECONDS: Final = 3.0  # within what any role leaves between SIGTERM and the end
COMPLAINT_SECONDS: Final = 60.0
# Who logs, once a try or a span, that a collector is away: names of the SDK's modules.
COMPLAINERS: Final = ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "opentelemetry.sdk._shared_internal")
NANOSECONDS: Final = 1_000_000_000
TRACE_PARENT: Final = "traceparent"
_PROPAGATOR: Final = TraceContextTextMapPropagator()


class OneAMinute(logging.Filter):
    """Lets one line a minute through: a collector that is away for a day isn't worth more."""

    def __init__(self) -> None:
        super().__init__()
        self._next_at_seconds = 0.0  # on the monotonic clock

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        del record
        now_seconds = time.monotonic()
        if now_seconds < self._next_at_seconds:
            return False
        self._next_at_seconds = now_seconds + COMPLAINT_SECONDS
        return True


class OpenSpan:
    """An open span of OpenTelemetry's."""

    def __init__(self, span: Span) -> None:
        self._span = span

    @property
    def trace_parent(self) -> str | None:
        """Its W3C ``traceparent``."""
        return _to_trace_parent(set_span_in_context(self._span, Context()))

    def rename(self, name: str) -> None:
        """Give it another name."""
        self._span.update_name(name)

    def describe(self, attributes: tracing.Attributes) -> None:
        """Add attributes."""
        self._span.set_attributes(dict(attributes))

    def fail(self, error_type: str) -> None:
        """Mark it as failed."""
        self._span.set_attribute(ERROR_TYPE, error_type)
        self._span.set_status(Status(StatusCode.ERROR))


class OpenTelemetryTracer:
    """Implements ``tracing.Tracer``."""

    def __init__(
        self, config: TracingConfig, resource: Mapping[str, str], *, exporter: SpanExporter | None = None
    ) -> None:
        """``exporter``: where spans go instead of the configured collector."""
        self._provider = TracerProvider(
            # A caller's own decision first; the environment's word on the resource last.
            sampler=ParentBased(TraceIdRatioBased(config.sample_percent / 100)),
            resource=Resource.create({**resource}).merge(OTELResourceDetector().detect()),
            shutdown_on_exit=False,
        )
        complaints = OneAMinute()
        for name in COMPLAINERS:
            logging.getLogger(name).addFilter(complaints)
        self._exporter = exporter or _build_exporter(config)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("easel_server", version("easel"))

    @contextmanager
    def span(
        self,
        name: str,
        *,
        kind: tracing.SpanKind = tracing.SpanKind.INTERNAL,
        attributes: tracing.Attributes | None = None,
        parent: str | None = None,
    ) -> Iterator[tracing.Span]:
        """See ``tracing.Tracer``."""
        context = None if parent is None else _to_context(parent)
        span = self._tracer.start_span(name, context, SpanKind[kind], dict(attributes or {}))
        opened = OpenSpan(span)
        # An exception's message may quote what a client sent, so it isn't recorded.
        with use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            try:
                yield opened
            except BaseException as error:
                opened.fail(type(error).__qualname__)
                raise

    def record(self, record: tracing.SpanRecord, *, parent: str | None) -> None:
        """See ``tracing.Tracer``."""
        self._record(record, Context() if parent is None else _to_context(parent))

    def _record(self, record: tracing.SpanRecord, context: Context) -> None:
        span = self._tracer.start_span(
            record.name,
            context,
            SpanKind[record.kind],
            dict(record.attributes),
            start_time=_to_nanoseconds(record.began_at),
        )
        for event in record.events:
            span.add_event(event.name, dict(event.attributes), _to_nanoseconds(event.at))
        if record.error is not None:
            OpenSpan(span).fail(record.error)
        for child in record.children:
            self._record(child, set_span_in_context(span, Context()))
        span.end(_to_nanoseconds(record.ended_at))

    def current_trace_parent(self) -> str | None:
        """See ``tracing.Tracer``."""
        return _to_trace_parent(None) if get_current_span().get_span_context().is_valid else None

    def close(self) -> None:
        """Send what is left, for CLOSE_SECONDS at the most; after that it is dropped."""
        # The SDK's own bound is half a minute, which a pod that ends hasn't got.
        closing = threading.Thread(target=self._provider.shutdown, name="traces-closing", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)
        if closing.is_alive():
            self._exporter.shutdown()  # it tries no more, so both threads end


def _build_exporter(config: TracingConfig) -> OTLPSpanExporter:
    if config.endpoint is None:
        return OTLPSpanExporter()
    base = config.endpoint.rstrip("/")
    return OTLPSpanExporter(endpoint=base if base.endswith(TRACES_PATH) else base + TRACES_PATH)


def _to_context(trace_parent: str) -> Context:
    """Of a ``traceparent``; without a parent if it isn't a valid one."""
    return _PROPAGATOR.extract({TRACE_PARENT: trace_parent}, Context())


def _to_trace_parent(context: Context | None) -> str | None:
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, context)
    return carrier.get(TRACE_PARENT)


def _to_nanoseconds(moment: datetime) -> int:
    return round(moment.timestamp() * NANOSECONDS)
