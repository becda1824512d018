"""Traces: what a request went through, from the gateway through the queue to the denoising steps.

Spans are opened with OpenTelemetry's API, which does nothing without its SDK. The SDK is optional: ``otlp.py`` alone
imports it, and is itself imported only where traces are wanted. Here is what the API leaves to us: no prompt, key or
image gets into a span, nor the message of an exception; and a place in a trace is stored as a W3C ``traceparent``.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

from easel_contract import names
from easel_contract.server_config import ServerConfig, TracingConfig
from opentelemetry.context import Context
from opentelemetry.trace import (
    NoOpTracer,
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    format_trace_id,
    get_current_span,
    set_span_in_context,
    use_span,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes

# https://opentelemetry.io/docs/specs/otel/protocol/exporter/ and .../configuration/sdk-environment-variables/
ENV_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
ENV_DISABLED: Final = "OTEL_SDK_DISABLED"
ROLE_OF_ALL: Final = "all"  # a lone process is the whole service
TRACE_PARENT: Final = "traceparent"  # https://www.w3.org/TR/trace-context/#traceparent-header
ERROR_TYPE: Final = "error.type"  # https://opentelemetry.io/docs/specs/semconv/attributes-registry/error/

NO_TRACER: Final[Tracer] = NoOpTracer()  # of a process that isn't traced

_PROPAGATOR: Final = TraceContextTextMapPropagator()


class TracingUnavailableError(Exception):
    """Traces are wanted, and the packages that make them aren't installed."""

    def __init__(self, wanted_by: str, missing: str) -> None:
        super().__init__(
            f"{wanted_by} asks for traces, and the Python package {missing!r} is missing: "
            f"{names.install_hint('tracing')}, or leave that setting out"
        )


@contextmanager
def open_tracer(
    config: ServerConfig, *, role: str, instance: str, environment: Mapping[str, str] = os.environ
) -> Iterator[Tracer]:
    """The tracer that configuration and environment ask for, NO_TRACER if they don't.

    Spans that are left at the end are sent, for a bounded time, which blocks. Raises TracingUnavailableError.
    """
    wanted_by = _find_reason(config.tracing, environment)
    if wanted_by is None:
        yield NO_TRACER
        return
    try:
        # Here, since it is optional, and takes memory and time that untraced processes shouldn't spend.
        from easel_server.telemetry.otlp import open_exported_tracer  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise TracingUnavailableError(wanted_by, error.name or "opentelemetry.sdk") from None
    resource = {
        "service.name": config.service if role == ROLE_OF_ALL else f"{config.service}-{role}",
        "service.namespace": config.namespace,
        "service.instance.id": instance,
    }
    with open_exported_tracer(config.tracing, resource) as tracer:
        yield tracer


def _find_reason(config: TracingConfig, environment: Mapping[str, str]) -> str | None:
    """The setting that asks for traces."""
    if environment.get(ENV_DISABLED, "").strip().lower() == "true":
        return None
    if config.endpoint is not None:
        return "tracing.endpoint"
    return next((name for name in ENV_ENDPOINTS if environment.get(name)), None)


def open_span(
    tracer: Tracer,
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Attributes = None,
    parent: str | None = None,
) -> AbstractContextManager[Span]:
    """A span around the ``with`` block, inside ``parent`` (a ``traceparent``) or else the span around this one.

    An exception that leaves the block fails the span with the exception's class, without its message.
    """
    span = tracer.start_span(name, None if parent is None else to_context(parent), kind, attributes)
    # Making a span the current one costs an untraced process three times as much as all the rest of this.
    return _within(span) if span.get_span_context().is_valid else nullcontext(span)


@contextmanager
def _within(span: Span) -> Iterator[Span]:
    # An exception's message may quote what a client sent, so it isn't recorded.
    with use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield span
        except BaseException as error:
            fail_span(span, type(error).__qualname__)
            raise


def fail_span(span: Span, error_type: str) -> None:
    """Mark it as failed; ``error_type`` is one word for what went wrong."""
    span.set_attribute(ERROR_TYPE, error_type)
    span.set_status(Status(StatusCode.ERROR))


def to_trace_parent(span: Span) -> str | None:
    """The span's place in its trace, as a ``traceparent``; None without tracing."""
    if not span.get_span_context().is_valid:
        return None
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, set_span_in_context(span, Context()))
    return carrier[TRACE_PARENT]


def to_context(trace_parent: str) -> Context:
    """Where spans go that are inside this ``traceparent``; if it isn't a valid one, they begin a trace."""
    return _PROPAGATOR.extract({TRACE_PARENT: trace_parent}, Context())


def current_trace_id() -> str | None:
    """The id of the trace that the current task works for, in hexadecimal digits; None without one."""
    place = get_current_span().get_span_context()
    return format_trace_id(place.trace_id) if place.is_valid else None
