"""Puts routes, error shapes and middleware together. Two apps: the gateway's, and the probes alone for a worker."""

from importlib.metadata import version

from easel_contract.server_config import ServerConfig
from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from opentelemetry.trace import Tracer
from starlette.middleware import Middleware

from easel_server.api.automatic1111.router import build_automatic1111_router
from easel_server.api.context import Gateway
from easel_server.api.direct_routes import DirectRoute
from easel_server.api.docs.routes import build_api_docs_router
from easel_server.api.errors import install_error_handlers
from easel_server.api.links import GENERATIONS_PATH, PREDICTIONS_PATH
from easel_server.api.openai.routes import OpenAIImages, OpenAIModels
from easel_server.api.openapi import DescribedAPI
from easel_server.api.playground.routes import LookAtModel, Playground, look_at_nothing
from easel_server.api.replicate.routes import Predictions
from easel_server.gateway.api_keys import KeyRing
from easel_server.gateway.input_images import Decoders
from easel_server.gateway.submit import Generation
from easel_server.telemetry.metrics import RequestMetrics
from easel_server.telemetry.tracing import NO_TRACER
from easel_server.transport.cached_answers import CachedAnswersMiddleware
from easel_server.transport.middleware import (
    AccessMiddleware,
    OpenRequestsMiddleware,
    RequestIdMiddleware,
    TracingMiddleware,
)
from easel_server.transport.probes import Readiness, RenderMetrics, build_probe_router
from easel_server.transport.streams import Streams

# FastAPI's own is not used (see tracing_middleware.py), and looking for it costs each request some microseconds.
NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}


def build_gateway_app(
    config: ServerConfig,
    generation: Generation,
    keys: KeyRing,
    readiness: Readiness,
    metrics: RequestMetrics,
    render_metrics: RenderMetrics,
    *,
    is_signing_configured: bool,
    tracer: Tracer = NO_TRACER,
    look_at_model: LookAtModel = look_at_nothing,
) -> FastAPI:
    """The whole API, and the page at ``/``."""
    app = DescribedAPI(
        are_keys_needed=config.gateway.api_keys_directory is not None,
        title="Easel",
        description=f"Images by {config.model.name}.",
        version=version("easel"),
        docs_url=None,  # FastAPI's own page asks another host: see api_docs_page.py
        redoc_url=None,
        telemetry=NO_TELEMETRY,
        # From the outside in: everything logged and counted has its id.
        middleware=[
            Middleware(RequestIdMiddleware),
            *([] if tracer is NO_TRACER else [Middleware(TracingMiddleware, tracer=tracer)]),
            Middleware(AccessMiddleware, metrics=metrics),
            Middleware(
                CachedAnswersMiddleware,
                path=GENERATIONS_PATH,
                keys=keys,
                limiter=generation.limiter,
                config=config.gateway,
                metrics=metrics,
            ),
            Middleware(OpenRequestsMiddleware, metrics=metrics),
        ],
    )
    install_error_handlers(app, metrics)
    streams = Streams(config.gateway.limits.max_streams, metrics)
    gateway = Gateway(config, generation, keys, Decoders(), streams)
    predictions = Predictions(gateway, is_signing_configured=is_signing_configured)
    images = OpenAIImages(gateway)
    app.include_router(images.build_router())
    app.include_router(OpenAIModels(gateway).build_router())
    app.include_router(predictions.build_router())
    app.include_router(build_automatic1111_router(gateway))
    app.include_router(build_probe_router(readiness, render_metrics))
    app.include_router(build_api_docs_router())
    app.include_router(Playground(config, look_at_model).build_router())
    one = f"{PREDICTIONS_PATH}/{{prediction_id}}"
    app.router.routes[:0] = [
        DirectRoute("POST", GENERATIONS_PATH, images.create_image),
        DirectRoute("POST", PREDICTIONS_PATH, predictions.create),
        DirectRoute("PUT", one, predictions.create_with_id),
        DirectRoute("GET", one, predictions.get),
    ]
    return app


def build_probe_app(readiness: Readiness, render_metrics: RenderMetrics) -> FastAPI:
    """A worker's: /healthz, /readyz and /metrics."""
    app = FastAPI(title="Easel worker", version=version("easel"), docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(build_probe_router(readiness, render_metrics))
    return app
