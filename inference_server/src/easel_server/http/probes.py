"""What Kubernetes, Prometheus and the operator ask of every role: /healthz, /readyz, /metrics."""

from collections.abc import Awaitable, Callable

from easel_contract import names
from fastapi import APIRouter
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel

from easel_server.http.readiness import Readiness, ReadyReason

PROMETHEUS_TEXT = "text/plain; version=0.0.4; charset=utf-8"

# The process's metrics in Prometheus' text format; reads the queue's figures from the broker first.
RenderMetrics = Callable[[], Awaitable[bytes]]


class ReadyAnswer(BaseModel):
    """Whether work is taken."""

    ready: bool
    reason: ReadyReason
    message: str


def build_probe_router(readiness: Readiness, render_metrics: RenderMetrics) -> APIRouter:
    """The three routes."""
    router = APIRouter(tags=["Probes"])

    @router.get(names.PATH_HEALTH, response_class=PlainTextResponse)
    async def healthz() -> PlainTextResponse:
        """The process is alive. A missing broker doesn't count: a restart wouldn't bring it back."""
        return PlainTextResponse("ok\n")

    @router.get(names.PATH_READY, responses={200: {"model": ReadyAnswer}, 503: {"model": ReadyAnswer}})
    async def readyz() -> JSONResponse:
        """Whether work is taken, and if not, why."""
        state = await readiness.look()
        content = {"ready": state.is_ready, "reason": state.reason, "message": state.message}
        return JSONResponse(content, status_code=200 if state.is_ready else 503)

    @router.get(names.PATH_METRICS, response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Prometheus' text format."""
        return Response(await render_metrics(), media_type=PROMETHEUS_TEXT)

    return router
