"""Traces: what a request went through, from the gateway through the queue to the denoising steps.

Values and the interface only. Nothing here imports OpenTelemetry's SDK, which is optional: ``open_telemetry.py`` does,
and is itself imported only where traces are wanted. No prompt, key or picture belongs into a span.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from easel_contract.server_config import ServerConfig, TracingConfig

# https://opentelemetry.io/docs/specs/otel/protocol/exporter/ and .../configuration/sdk-environment-variables/
ENV_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
ENV_DISABLED = "OTEL_SDK_DISABLED"
ROLE_OF_ALL = "all"  # a lone process is the whole service
AttributeValue = str | bool | int | float
Attributes = Mapping[str, AttributeValue]


class SpanKind(StrEnum):
    """Which side of a call a span is, in OpenTelemetry's words."""

    INTERNAL = "INTERNAL"
    SERVER = "SERVER"
    CLIENT = "CLIENT"
    PRODUCER = "PRODUCER"  # puts work into a queue
    CONSUMER = "CONSUMER"  # takes it out


@dataclass(frozen=True)
class SpanEvent:
    """Something that happened at one moment of a span."""

    name: str
    at: datetime
    attributes: Attributes = field(default_factory=dict)


@dataclass(frozen=True)
class SpanRecord:
    """A span that is over, with those inside it."""

    name: str
    began_at: datetime
    ended_at: datetime
    kind: SpanKind = SpanKind.INTERNAL
    attributes: Attributes = field(default_factory=dict)
    events: tuple[SpanEvent, ...] = ()
    children: tuple["SpanRecord", ...] = ()
    error: str | None = None  # one word for what went wrong: its error.type


class Span(Protocol):
    """A span that is open."""

    @property
    def trace_parent(self) -> str | None:
        """Its place in the trace, as a W3C ``traceparent``; None without tracing."""
        ...

    def rename(self, name: str) -> None:
        """Give it the name that is known only now."""
        ...

    def describe(self, attributes: Attributes) -> None:
        """Add attributes."""
        ...

    def fail(self, error_type: str) -> None:
        """Mark it as failed."""
        ...


class Tracer(Protocol):
    """Keeps spans and sends them off; none of its methods raises or waits for the collector, save ``close``."""

    def span(
        self,
        name: str,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes | None = None,
        parent: str | None = None,
    ) -> AbstractContextManager[Span]:
        """A span around the ``with`` block, inside ``parent`` (a ``traceparent``) or else the span around this one.

        An exception that leaves the block fails the span with the exception's class, without its message.
        """
        ...

    def record(self, record: SpanRecord, *, parent: str | None) -> None:
        """Keep spans that are over. Without a parent they begin a trace."""
        ...

    def current_trace_parent(self) -> str | None:
        """The ``traceparent`` of the innermost open span of this task; None without one."""
        ...

    def close(self) -> None:
        """Send what is left, for a bounded time. Blocks."""
        ...


class _NoSpan:
    trace_parent: str | None = None

    def rename(self, name: str) -> None:
        """Nothing."""

    def describe(self, attributes: Attributes) -> None:
        """Nothing."""

    def fail(self, error_type: str) -> None:
        """Nothing."""


_NO_SPAN = _NoSpan()


class NoTracer:
    """The tracer of a process that isn't traced."""

    @contextmanager
    def span(
        self,
        name: str,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes | None = None,
        parent: str | None = None,
    ) -> Iterator[Span]:
        """Just the block."""
        del name, kind, attributes, parent
        yield _NO_SPAN

    def record(self, record: SpanRecord, *, parent: str | None) -> None:
        """Nothing."""

    def current_trace_parent(self) -> str | None:
        """None."""
        return None

    def close(self) -> None:
        """Nothing."""


NO_TRACER: Tracer = NoTracer()


class TracingUnavailableError(Exception):
    """Traces are wanted, and the packages that make them aren't installed."""

    def __init__(self, wanted_by: str, missing: str) -> None:
        super().__init__(
            f"{wanted_by} asks for traces, and the Python package {missing!r} is missing: "
            "install easel[tracing], or leave that setting out"
        )


def build_tracer(
    config: ServerConfig, *, role: str, instance: str, environment: Mapping[str, str] = os.environ
) -> Tracer:
    """The tracer that configuration and environment ask for. Raises TracingUnavailableError."""
    wanted_by = _find_reason(config.tracing, environment)
    if wanted_by is None:
        return NO_TRACER
    try:
        # Here, since it is optional, and takes memory and time that untraced processes shouldn't spend.
        from easel_server.telemetry.open_telemetry import OpenTelemetryTracer  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise TracingUnavailableError(wanted_by, error.name or "opentelemetry.sdk") from None
    resource = {
        "service.name": config.service if role == ROLE_OF_ALL else f"{config.service}-{role}",
        "service.namespace": config.namespace,
        "service.instance.id": instance,
    }
    return OpenTelemetryTracer(config.tracing, resource)


def _find_reason(config: TracingConfig, environment: Mapping[str, str]) -> str | None:
    """The setting that asks for traces."""
    if environment.get(ENV_DISABLED, "").strip().lower() == "true":
        return None
    if config.endpoint is not None:
        return "tracing.endpoint"
    return next((name for name in ENV_ENDPOINTS if environment.get(name)), None)
