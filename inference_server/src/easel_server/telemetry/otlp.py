"""OpenTelemetry's SDK: spans leave by OTLP/HTTP, in batches, from a thread of the SDK.

The one file that imports it; who opens spans needs OpenTelemetry's API alone. Where the collector is away, spans are
dropped: at most the SDK's queue of 2,048 (``OTEL_BSP_MAX_QUEUE_SIZE``) is kept. What the environment says of resource,
headers, certificates, batches and span limits holds as the SDK documents it; of the endpoint, only where the
configuration names none.
"""

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Final

from easel_contract import names
from easel_contract.server_config import TracingConfig
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Tracer

TRACES_PATH: Final = "/v1/traces"
CLOSE_SECONDS: Final = 3.0  # within what any role leaves between SIGTERM and the end
COMPLAINT_SECONDS: Final = 60.0
# Who logs, once a try or a span, that a collector is away: names of the SDK's modules.
COMPLAINERS: Final = ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "opentelemetry.sdk._shared_internal")


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


@contextmanager
def open_exported_tracer(config: TracingConfig, resource: Mapping[str, str]) -> Iterator[Tracer]:
    """A tracer whose spans go to the collector. None of its methods raises or waits for the collector.

    At the end what is left is sent, for CLOSE_SECONDS at the most, which blocks; after that it is dropped.
    """
    provider = TracerProvider(
        # A caller's own decision first; the environment's word on the resource last.
        sampler=ParentBased(TraceIdRatioBased(config.sample_percent / 100)),
        resource=Resource.create({**resource}).merge(OTELResourceDetector().detect()),
        shutdown_on_exit=False,
    )
    complaints = OneAMinute()
    for name in COMPLAINERS:
        logging.getLogger(name).addFilter(complaints)
    exporter = _build_exporter(config)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    try:
        yield provider.get_tracer("easel_server", version(names.DISTRIBUTION))
    finally:
        _close(provider, exporter)


def _build_exporter(config: TracingConfig) -> OTLPSpanExporter:
    if config.endpoint is None:
        return OTLPSpanExporter()
    base = config.endpoint.rstrip("/")
    return OTLPSpanExporter(endpoint=base if base.endswith(TRACES_PATH) else base + TRACES_PATH)


def _close(provider: TracerProvider, exporter: SpanExporter) -> None:
    # The SDK's own bound is half a minute, which a pod that ends hasn't got.
    closing = threading.Thread(target=provider.shutdown, name="traces-closing", daemon=True)
    closing.start()
    closing.join(CLOSE_SECONDS)
    if closing.is_alive():
        exporter.shutdown()  # it tries no more, so both threads end
