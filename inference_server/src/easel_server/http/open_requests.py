"""Bounds the requests that one gateway serves at a time, those that wait for their images above all."""

from typing import Final

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from easel_server.http.errors import choose_shape
from easel_server.http.middleware import PROBES
from easel_server.http.observation import RequestMetrics
from easel_server.http.refusals import refuse_for_open_requests

MAX_OPEN_REQUESTS: Final = 10_000  # each takes some tens of kilobytes


class OpenRequestsMiddleware:
    """Refuses requests beyond the bound. Probes pass: a restart would help nobody."""

    def __init__(self, app: ASGIApp, metrics: RequestMetrics, bound: int = MAX_OPEN_REQUESTS) -> None:
        self._app = app
        self._metrics = metrics
        self._bound = bound
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        if self._open >= self._bound:
            refusal = refuse_for_open_requests(self._bound)
            self._metrics.count_refusal(refusal.code)
            status, body = choose_shape(scope["path"])(refusal)
            await JSONResponse(body, status_code=status, headers=dict(refusal.headers))(scope, receive, send)
            return
        self._open += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._open -= 1
