"""Puts routes, error shapes and middleware together. Two apps: the gateway's, and the probes alone for a worker."""

from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version
from socket import gethostname
from typing import Any, Final

from easel_contract import names
from easel_contract.server_config import ServerConfig
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from fastapi.telemetry import TelemetryConfig
from opentelemetry.trace import Tracer
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import request_response

from easel_server.api.automatic1111.routes import AUTOMATIC1111
from easel_server.api.context import Api, ApiContext
from easel_server.api.docs.routes import add_docs_routes
from easel_server.api.errors import install_error_handlers
from easel_server.api.links import GENERATIONS_PATH
from easel_server.api.openai.routes import OPENAI, add_model_routes
from easel_server.api.openapi import JOB_HEADERS, DescribedAPI, describe_model
from easel_server.api.playground.routes import add_playground_routes
from easel_server.api.replicate.fields import PredictionInput
from easel_server.api.replicate.routes import REPLICATE
from easel_server.gateway.api_keys import KeyRing
from easel_server.gateway.ending import Ending
from easel_server.gateway.input_images import Decoders
from easel_server.gateway.inputs.fetching import InputUrls
from easel_server.gateway.link_signer import LinkSigner
from easel_server.gateway.live_config import LiveConfig
from easel_server.gateway.queue_estimate import QueueEstimates
from easel_server.gateway.refusals import RefusalError
from easel_server.gateway.results import Results
from easel_server.gateway.submit import Submitter
from easel_server.generation.cost import CostModel
from easel_server.generation.models import ModelFacts
from easel_server.stores.facts.add_on_contents import AddOnContents
from easel_server.stores.facts.load_failure import SharedLoadFailure
from easel_server.stores.opening import Stores
from easel_server.telemetry.gateway_metrics import RequestMetrics
from easel_server.telemetry.tracing import NO_TRACER
from easel_server.transport.body_bounds import BodyBoundsMiddleware
from easel_server.transport.browser_guard import BrowserGuardMiddleware, BrowserRules
from easel_server.transport.cached_answers import CachedAnswersMiddleware
from easel_server.transport.middleware import RequestMiddleware, TracingMiddleware
from easel_server.transport.probes import Readiness, RenderMetrics, add_probe_routes
from easel_server.transport.streams import Streams
from easel_server.transport.usage import UsageReport, add_usage_route

# In the order of their routes. The last that is spoken at a path gives errors there their shape; OpenAI's is the first,
# and so everybody else's.
APIS: Final[tuple[Api, ...]] = (OPENAI, REPLICATE, AUTOMATIC1111)

# FastAPI's own is not used (see transport/middleware.py), and looking for it costs each request some microseconds.
NO_TELEMETRY: Final[TelemetryConfig] = {"tracing": False, "metrics": False, "logs": False}


class HandlerRoute(APIRoute):
    """A route that FastAPI describes and that plain Starlette serves.

    FastAPI's injection of arguments takes as long as all the rest of a request for cached images, and bodies are read
    by hand anyway, within their bounds. So handlers take the request and the path's parameters, and return a response;
    their signature is only read for the API's description.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)

        if not self.param_convertors:
            self.app = request_response(self.endpoint)
            return

        async def handle(request: Request) -> Response:
            response: Response = await self.endpoint(request, **request.path_params)
            return response

        self.app = request_response(handle)


def build_error(path: str, refusal: RefusalError) -> tuple[int, dict[str, Any]]:
    """Status and body of a refusal, as the API that is spoken at a path gives it."""
    return next(api for api in reversed(APIS) if api.is_spoken_at(path)).build_error(refusal)


def build_context(
    config: ServerConfig,
    stores: Stores,
    *,
    model_facts: Callable[[], Awaitable[ModelFacts]],
    cost_model: Callable[[], Awaitable[CostModel]],
    keys: KeyRing,
    metrics: RequestMetrics,
    live: LiveConfig,
    ending: Ending,
    signer: LinkSigner | None = None,
    tracer: Tracer = NO_TRACER,
    webhook_secrets: tuple[str, ...] = (),
) -> ApiContext:
    """What handlers work with, put together. ``model_facts`` and ``cost_model`` are asked at each request."""
    gateway = config.gateway
    load_failure = SharedLoadFailure(stores.facts, lambda: live.requested.key).look
    results = Results(stores.jobs, stores.images, stores.cache, gateway.cache, ending, load_failure=load_failure)
    estimates = QueueEstimates(stores.jobs, gateway, live, model_facts)
    submitter = Submitter(
        stores.jobs,
        stores.limits,
        results,
        estimates,
        live,
        gateway,
        metrics,
        tracer,
        facts=model_facts,
        cost_model=cost_model,
        load_failure=load_failure,
        contents=AddOnContents(stores.facts).find,
    )
    return ApiContext(
        config=config,
        live=live,
        limits=gateway.limits,
        submitter=submitter,
        results=results,
        estimates=estimates,
        stores=stores,
        model_facts=model_facts,
        keys=keys,
        signer=signer,
        decoders=Decoders(InputUrls(gateway.inputs, metrics, max_bytes=gateway.limits.max_body_bytes)),
        streams=Streams(gateway.limits.max_streams, metrics, ending, is_shared=keys.are_asked_for),
        ending=ending,
        input_schema=describe_model(PredictionInput),
        webhook_secrets=webhook_secrets,
    )


def build_gateway_app(
    context: ApiContext,
    readiness: Readiness,
    metrics: RequestMetrics,
    render_metrics: RenderMetrics,
    tracer: Tracer = NO_TRACER,
    *,
    usage: UsageReport | None = None,
    has_metrics_port: bool = False,
) -> FastAPI:
    """The whole API, and the page at ``/``; metrics, usage and readiness too, unless they have a port of their own."""
    config = context.config
    app = DescribedAPI(
        are_keys_needed=config.gateway.api_keys_directory is not None,
        title="Easel",
        description="Images by a Stable Diffusion model; /v1/models says which.",
        version=version(names.DISTRIBUTION),
        docs_url=None,  # FastAPI's own page asks another host: see api/docs
        openapi_url=None,
        redoc_url=None,
        telemetry=NO_TELEMETRY,
        # From the outside in: everything logged and counted has its id, and its trace if there is one.
        middleware=[
            *([] if tracer is NO_TRACER else [Middleware(TracingMiddleware, tracer=tracer)]),
            Middleware(RequestMiddleware, metrics=metrics, build_error=build_error, ending=context.ending),
            *_build_cors(config.gateway.allowed_origins),
            Middleware(
                BrowserGuardMiddleware,
                rules=BrowserRules(config.gateway, own_name=gethostname()),
                metrics=metrics,
                build_error=build_error,
            ),
            Middleware(BodyBoundsMiddleware, keys=context.keys, max_body_bytes=context.limits.max_body_bytes),
            Middleware(
                CachedAnswersMiddleware,
                path=GENERATIONS_PATH,
                keys=context.keys,
                limiter=context.stores.limits,
                config=config.gateway,
                metrics=metrics,
            ),
        ],
    )
    install_error_handlers(app, build_error, metrics)
    app.router.route_class = HandlerRoute
    for api in APIS:
        api.add_routes(app.router, context)
    add_model_routes(app.router, context)  # behind all that is more special: a model's name may hold anything
    are_metrics_private = has_metrics_port or config.gateway.api_keys_directory is not None
    add_probe_routes(
        app.router,
        None if has_metrics_port else readiness,
        None if are_metrics_private else render_metrics,
    )
    add_usage_route(app.router, None if are_metrics_private else usage)
    add_docs_routes(app.router, context.keys, app.openapi)
    add_playground_routes(app.router, context)
    add_head_routes(app.router)
    return app


def _build_cors(origins: Sequence[str]) -> list[Middleware]:
    """What lets pages of these origins read answers; where there are none, no page of another site can."""
    if not origins:
        return []
    shown = [*JOB_HEADERS, "Retry-After", "Warning", "X-Request-Id"]
    methods = ["GET", "HEAD", "POST", "PUT"]
    return [
        Middleware(
            CORSMiddleware, allow_origins=origins, allow_methods=methods, allow_headers=["*"], expose_headers=shown
        )
    ]


def add_head_routes(router: APIRouter) -> None:
    """HEAD wherever there is GET: the server sends the same head, and leaves out the body. Call it after all others."""
    for route in tuple(router.routes):
        if isinstance(route, HandlerRoute) and "GET" in (route.methods or ()):
            router.add_api_route(route.path, route.endpoint, methods=["HEAD"], include_in_schema=False)


def build_probe_app(readiness: Readiness, render_metrics: RenderMetrics, usage: UsageReport | None = None) -> FastAPI:
    """What nobody outside the cluster asks: /healthz, /readyz, /metrics, and a gateway's /usage."""
    number = version(names.DISTRIBUTION)
    app = FastAPI(title="Easel worker", version=number, docs_url=None, redoc_url=None, openapi_url=None)
    app.router.route_class = HandlerRoute
    add_probe_routes(app.router, readiness, render_metrics)
    if usage is not None:
        add_usage_route(app.router, usage)
    add_head_routes(app.router)
    return app
